"""The numbers at the end, each from whoever should know it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any, TypeVar

from ...actors.events.routing import EVENTS as TABLE
from ...actors.resources import clickhouse
from ...actors.webhooks.delivery_log import TABLE as ATTEMPTS
from ...core.errors import FormrelayError
from ...core.failure import Failure
from .client import submissions
from .environment import RETRY_DELAYS
from .play import Sent
from .receiver import FLAKY_FAILURES
from .report import Number
from .stage import Stage
from .survey import BROKEN, FLAKY, Answer, per_form

T = TypeVar("T")

#: What was sent last is in ClickHouse within so many seconds.
_DRAIN_SECONDS = 15.0


@dataclass(slots=True)
class Found:
    """What the API, the receiver, the broker and ClickHouse say; None: could not be asked."""

    saved: int | None = None
    delivered: int | None = None
    retried: int | None = None
    dead: int | None = None
    rows: int | None = None
    attempts: int | None = None
    by_type: dict[str, int] = field(default_factory=dict)
    first_dead: Failure | None = None
    problems: list[str] = field(default_factory=list)

    def ask(self, question: Callable[[], T]) -> T | None:
        """The answer; where there is none, why goes to ``problems``."""
        try:
            return question()
        except FormrelayError as error:
            self.problems.append(str(error))
            return None


def count(stage: Stage, answers: Sequence[Answer]) -> Found:
    """Ask everybody. Ends the workers on the way: ClickHouse's folder is theirs until then."""
    found = Found()
    found.saved = found.ask(lambda: _saved_as_sent(stage, answers))
    stats: dict[str, int] = found.ask(lambda: stage.receiver.get("/stats")) or {}
    found.delivered, found.retried = stats.get("delivered"), stats.get("retried")
    found.dead = found.ask(lambda: _dead(stage))
    found.first_dead = found.ask(lambda: _first_dead(stage))
    # The last attempts are sent to the queue of events when their worker stops.
    stage.children.stop(only="worker submissions")
    found.ask(lambda: _drained(stage))
    stage.children.stop(only="worker")
    found.attempts = found.ask(_attempts)
    for kind, rows, events in found.ask(_rows) or ():
        found.by_type[kind] = events
        found.rows = (found.rows or 0) + rows
        if rows != events:
            found.problems.append(f"ClickHouse has {rows} rows of {events} {kind} events")
    return found


def numbers(found: Found, sent: Sent, answers: Sequence[Answer]) -> list[Number]:
    """The table: pure."""
    forms = per_form(answers)
    total, events = len(answers), sum(len(answer.events) for answer in answers)
    return [
        Number("sent", "Submissions sent", total, sent.submissions, "as save_submission jobs"),
        Number(
            "saved", "Submissions saved, once each", total, found.saved, "read back from the API"
        ),
        Number("events_sent", "Events sent", events, sent.events, "as record_events jobs"),
        Number("rows", "Rows in ClickHouse", events, found.rows, "counted by ClickHouse"),
        Number(
            "delivered",
            "Webhooks delivered",
            total - forms[BROKEN],
            found.delivered,
            "signature valid: standardwebhooks",
        ),
        Number(
            "retried",
            "  of these retried",
            forms[FLAKY],
            found.retried,
            f"/flaky fails {FLAKY_FAILURES} times first",
        ),
        Number("dead_lettered", "Dead-lettered", forms[BROKEN], found.dead, "/broken always fails"),
        Number(
            "attempts",
            "Attempts in the delivery log",
            total + forms[FLAKY] * FLAKY_FAILURES + forms[BROKEN] * RETRY_DELAYS.count(","),
            found.attempts,
            "webhook_deliveries, by ClickHouse",
        ),
    ]


def _saved_as_sent(stage: Stage, answers: Sequence[Answer]) -> int:
    """How many submissions the API has whose content is what was sent."""
    sent = {answer.id: answer.submission["payload"] for answer in answers}
    kept = (one for form_id in per_form(answers) for one in submissions(stage.api, form_id))
    return sum(_same(sent.get(one["id"], {}), one) for one in kept)


def _same(sent: dict[str, Any], kept: dict[str, Any]) -> bool:
    return all(sent.get(key) == kept.get(key) for key in ("formId", "status", "answers"))


def _dead(stage: Stage) -> int:
    queues = stage.queues
    every = (queues.submissions, queues.events, queues.webhooks)
    return sum(stage.broker.counts(queue).dead for queue in every)


def _first_dead(stage: Stage) -> Failure | None:
    letters = stage.broker.dead_letters(stage.queues.webhooks, limit=1)
    return next((letter.failure for letter in letters), None)


def _drained(stage: Stage) -> None:
    """Wait until nothing is left on the queue of events."""
    deadline = time.monotonic() + _DRAIN_SECONDS
    while time.monotonic() < deadline:
        counts = stage.broker.counts(stage.queues.events)
        if not (counts.waiting or counts.scheduled or counts.in_flight):
            return
        Event().wait(0.05)


def _attempts() -> int:
    client = clickhouse()
    try:
        ((found,),) = client.query(f"SELECT count() FROM {ATTEMPTS}_once")  # noqa: S608 - ours
    finally:
        client.close()
    return int(found)


def _rows() -> list[tuple[str, int, int]]:
    """By type, in the order in which they happen: rows, and distinct events."""
    client = clickhouse()
    try:
        found = client.query(
            f"SELECT type, count(), uniqExact(event_id) FROM {TABLE} FINAL"  # noqa: S608 - ours
            " GROUP BY type ORDER BY min(occurred_at)"
        )
    finally:
        client.close()
    return [(str(kind), int(rows), int(events)) for kind, rows, events in found]
