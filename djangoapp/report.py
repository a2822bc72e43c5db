"""What the dashboard shows, as text: queues, workers, dead letters, and no payload."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..brokers import Entry, NotAvailable, QueueCounts, RelayBroker, State
from ..brokers.inspection import UnknownCursor
from ..config import get_settings
from ..core.errors import FormrelayError
from ..ops.output import age
from .health import reached, worker_reports

#: Dead letters of each queue on the first page, and on a page of one queue.
_NEWEST, _PAGE = 5, 50

_NOT_AVAILABLE = "n/a"


class NoSuchQueue(FormrelayError):
    """There is no such queue, or no such page of it."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, without its payload.

    Attributes:
        moment: when it died; '' where that is not known.
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
class Letters:
    """Some dead letters of a queue, and which."""

    queue: str
    count: int
    which: str
    shown: list[Letter]


@dataclass(frozen=True, slots=True)
class Report:
    """A page.

    Attributes:
        queue: the one that is looked at; None for all of them.
        workers: None where the broker does not tell.
        cursor: of the next page.
    """

    kind: str
    moment: str
    queues: list[dict[str, Any]]
    letters: list[Letters]
    queue: str | None = None
    weaknesses: list[str] = field(default_factory=list)
    workers: list[dict[str, Any]] | None = None
    cursor: str | None = None


def overview() -> Report:
    """Everything at a glance.

    Raises:
        FormrelayError: the broker cannot be used.
    """
    broker = reached()
    counts = [broker.inspector.counts(queue) for queue in sorted(broker.queues)]
    found = worker_reports(broker)
    return Report(
        kind=get_settings().broker.kind,
        moment=_moment(broker),
        queues=[_queue(one) for one in counts],
        letters=[_newest(broker, one) for one in counts if one.dead],
        weaknesses=broker.weaknesses(),
        workers=None if found is None else [_worker(one) for one in found],
    )


def queue_page(queue: str, cursor: str | None) -> Report:
    """The dead letters of one queue, the oldest first: those are what a page can begin behind.

    Raises:
        NoSuchQueue: there is none of that name, or the cursor is not of it.
        FormrelayError: the broker cannot be used.
    """
    broker = reached()
    if queue not in broker.queues:
        raise NoSuchQueue
    counts = broker.inspector.counts(queue)
    try:
        page = broker.inspector.browse(queue, State.DEAD, limit=_PAGE, cursor=cursor)
    except UnknownCursor:
        raise NoSuchQueue from None
    shown = [_letter(broker, entry) for entry in page.entries]
    return Report(
        kind=get_settings().broker.kind,
        moment=_moment(broker),
        queues=[_queue(counts)],
        letters=[Letters(queue, counts.dead, "the oldest first", shown)],
        queue=queue,
        cursor=page.cursor,
    )


def _newest(broker: RelayBroker, counts: QueueCounts) -> Letters:
    which = "the newest first"
    try:
        entries = broker.inspector.newest_dead(counts.queue, limit=_NEWEST)
    except NotAvailable:
        entries = broker.inspector.browse(counts.queue, State.DEAD, limit=_NEWEST).entries
        which = "the oldest first: this broker cannot show the newest of so many"
    return Letters(counts.queue, counts.dead, which, [_letter(broker, one) for one in entries])


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
        "silent": _NOT_AVAILABLE if silent is None else age(silent),
    }


def _letter(broker: RelayBroker, entry: Entry) -> Letter:
    failure, died = entry.failure, entry.died
    return Letter(
        id=_readable(entry.id),
        actor=_readable(entry.message.actor_name),
        moment="" if died is None else _time(died),
        ago="" if died is None else f"{age(max(0.0, broker.clock.time() - died))} ago",
        reason="" if failure is None else failure.reason.replace("_", " "),
        error="" if failure is None else _readable(failure.error),
        says="not buried by formrelay" if failure is None else _readable(failure.message),
        attempts="–" if failure is None else str(failure.attempt),
    )


def _readable(text: object) -> str:
    # Ids of other producers may be any bytes, and half a character cannot be written.
    return str(text).encode("utf-8", "replace").decode()


def _number(count: int | None) -> str:
    return _NOT_AVAILABLE if count is None else f"{count:,}"


def _moment(broker: RelayBroker) -> str:
    return _time(broker.clock.time())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
