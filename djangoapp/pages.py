"""The contents of the dashboard: queues, workers and dead letters, without payloads."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..brokers import Entry, NotAvailable, QueueCounts, RelayBroker, State
from ..brokers.inspection import UnknownCursor
from ..config import get_settings
from ..core.errors import FormrelayError
from ..ops.health import list_workers
from ..ops.output import NOT_AVAILABLE, age
from .health import open_broker

#: Number of dead letters for each queue on the overview, and on the page of one queue.
_NEWEST, _PER_PAGE = 5, 50


class NoSuchQueue(FormrelayError):
    """There is no such queue, or no such page."""


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """A dead letter, without its payload.

    Attributes:
        moment: when it was dead-lettered; empty if unknown.
        ago: the age of the dead letter.
        says: the message of the failure.
    """

    id: str
    actor: str
    moment: str
    ago: str
    reason: str
    error: str
    says: str
    attempts: str


@dataclass(frozen=True, slots=True)
class DeadLetterList:
    """Some dead letters of a queue.

    Attributes:
        count: number of all dead letters of the queue.
        which: the order, for example 'newest first'.
    """

    queue: str
    count: int
    which: str
    shown: list[DeadLetterRow]


@dataclass(frozen=True, slots=True)
class DashboardPage:
    """The contents of one page.

    Attributes:
        queue: the queue of the page; None on the overview.
        workers: None if not available on this broker.
        cursor: cursor of the next page.
    """

    kind: str
    moment: str
    queues: list[dict[str, Any]]
    dead_letters: list[DeadLetterList]
    queue: str | None = None
    weaknesses: list[str] = field(default_factory=list)
    workers: list[dict[str, Any]] | None = None
    cursor: str | None = None


def overview() -> DashboardPage:
    """Return the overview of all queues.

    Raises:
        FormrelayError: the broker cannot be used.
    """
    broker = open_broker()
    counts = [broker.inspector.counts(queue) for queue in broker.inspector.queues()]
    found = list_workers(broker)
    return DashboardPage(
        kind=get_settings().broker.kind,
        moment=_moment(broker),
        queues=[_queue(each) for each in counts],
        dead_letters=[_newest(broker, each) for each in counts if each.dead],
        weaknesses=broker.weaknesses(),
        workers=None if found is None else [_worker(each) for each in found],
    )


def queue_page(queue: str, cursor: str | None) -> DashboardPage:
    """Return a page of the dead letters of a queue, the oldest first.

    Raises:
        NoSuchQueue: the queue does not exist, or the cursor belongs to another queue.
        FormrelayError: the broker cannot be used.
    """
    broker = open_broker()
    if not broker.inspector.has_queue(queue):
        raise NoSuchQueue
    counts = broker.inspector.counts(queue)
    try:
        page = broker.inspector.browse(queue, State.DEAD, limit=_PER_PAGE, cursor=cursor)
    except UnknownCursor:
        raise NoSuchQueue from None
    shown = [_letter(broker, entry) for entry in page.entries]
    return DashboardPage(
        kind=get_settings().broker.kind,
        moment=_moment(broker),
        queues=[_queue(counts)],
        dead_letters=[DeadLetterList(queue, counts.dead, "oldest first", shown)],
        queue=queue,
        cursor=page.cursor,
    )


def _newest(broker: RelayBroker, counts: QueueCounts) -> DeadLetterList:
    which = "newest first"
    try:
        entries = broker.inspector.newest_dead(counts.queue, limit=_NEWEST)
    except NotAvailable:
        entries = broker.inspector.browse(counts.queue, State.DEAD, limit=_NEWEST).entries
        which = "oldest first (this broker cannot list the newest of so many)"
    return DeadLetterList(
        counts.queue, counts.dead, which, [_letter(broker, entry) for entry in entries]
    )


def _queue(counts: QueueCounts) -> dict[str, Any]:
    oldest = counts.oldest_age
    return {
        "name": counts.queue,
        "waiting": _number(counts.waiting),
        "scheduled": _number(counts.scheduled),
        "in_flight": _number(counts.in_flight),
        "dead": _number(counts.dead),
        "is_paused": counts.paused,
        "has_dead": bool(counts.dead),
        "oldest": "–" if oldest is None else age(oldest.total_seconds()),
    }


def _worker(found: dict[str, Any]) -> dict[str, Any]:
    silent = found["silent_for_s"]
    return {
        "name": found["name"] or found["id"],
        "alive": found["alive"],
        "queues": ", ".join(found["queues"]) or "–",
        "silent": NOT_AVAILABLE if silent is None else age(silent),
    }


def _letter(broker: RelayBroker, entry: Entry) -> DeadLetterRow:
    failure, died = entry.failure, entry.died
    return DeadLetterRow(
        id=_readable(entry.id),
        actor=_readable(entry.message.actor_name),
        moment="" if died is None else _time(died),
        ago="" if died is None else f"{age(max(0.0, broker.clock.time() - died))} ago",
        reason="" if failure is None else failure.reason.replace("_", " "),
        error="" if failure is None else _readable(failure.error),
        says="dead-lettered outside formrelay" if failure is None else _readable(failure.message),
        attempts="–" if failure is None else str(failure.attempt),
    )


def _readable(text: object) -> str:
    # Ids of other producers may be any bytes; lone surrogates cannot be encoded.
    return str(text).encode("utf-8", "replace").decode()


def _number(count: int | None) -> str:
    return NOT_AVAILABLE if count is None else f"{count:,}"


def _moment(broker: RelayBroker) -> str:
    return _time(broker.clock.time())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
