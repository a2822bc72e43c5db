"""The table of ``formrelay queues``: counts, rates and what keeps a queue from moving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ...brokers import Inspector, NotAvailable, QueueCounts, get_broker
from ...core.errors import BrokerError, describe
from ...state import make_history
from ...state.history import Point, total
from ..health.status_json import queue_to_json
from ..output import NOT_AVAILABLE, age
from .options import hidden_queues

#: The rates are those of this time.
_RECENT = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Line:
    """One queue.

    Attributes:
        has_no_worker: whether messages wait that no live worker consumes; None if not available.
        recent: what happened in the last five minutes; None without a history.
    """

    counts: QueueCounts
    has_no_worker: bool | None
    recent: Point | None

    def to_json(self) -> dict[str, Any]:
        """Return the line as JSON. None means not available."""
        recent = self.recent
        return {
            **queue_to_json(self.counts),
            "no_worker": self.has_no_worker,
            "jobs_per_s": None if recent is None else round(recent.per_second, 3),
            "error_rate": None if recent is None else recent.error_rate,
        }


@dataclass(frozen=True, slots=True)
class Survey:
    """All queues at one moment, and the notes about them."""

    lines: list[Line]
    notes: list[str]

    @property
    def columns(self) -> list[str]:
        """The columns of the table; the rates are left out without a history."""
        rates = ["jobs/s", "errors"] if self._has_rates else []
        return ["queue", "waiting", "scheduled", "in_flight", "dead", *rates, "oldest", "state"]

    @property
    def rows(self) -> list[Sequence[Any]]:
        """The rows of the table."""
        return [_row(line, has_rates=self._has_rates) for line in self.lines]

    @property
    def _has_rates(self) -> bool:
        return any(line.recent is not None for line in self.lines)


def survey(inspector: Inspector) -> Survey:
    """Count the messages of all queues.

    Raises:
        BrokerError: the broker failed.
    """
    found = inspector.counts_of(inspector.queues())
    try:
        idle: set[str] | None = inspector.without_worker(found)
    except NotAvailable:
        idle = None
    recent, notes = _recent()
    lines = [
        Line(
            counts,
            None if idle is None else counts.queue in idle,
            None if recent is None else recent.get(counts.queue, total([])),
        )
        for counts in found
    ]
    return Survey(lines, [*_notes(inspector, found), *notes])


def _notes(inspector: Inspector, found: Sequence[QueueCounts]) -> list[str]:
    notes = list(hidden_queues(inspector))
    if any(counts.scheduled is None or counts.in_flight is None for counts in found):
        hint = ""
        if any(counts.in_flight is None for counts in found) and not inspector.degraded():
            hint = "; RABBITMQ_API_URL adds the number of messages in flight"
        notes.append(f"{NOT_AVAILABLE}: not available on this broker{hint}")
    if problem := inspector.degraded():
        notes.append(f"note: {problem}")
    read = [counts.queue for counts in found if counts.dead_is_lower_bound or counts.dead_age]
    if read:
        notes.append(
            f"note: a process is listing, replaying or deleting dead letters of {', '.join(read)}: "
            "their number is some seconds old, or a lower bound (≥)"
        )
    if scheduled := inspector.scheduled_in_all():
        notes.append(f"note: scheduled messages of all queues together: {scheduled}")
    return notes


def _recent() -> tuple[dict[str, Point] | None, list[str]]:
    """What happened in the last minutes by queue, or None with a note why it is not known."""
    state = get_broker().state
    if state is None:
        return None, ["note: rates are not known: they need a shared store (STATE_URL)"]
    try:
        points = make_history(state).read(span=_RECENT)
    except BrokerError as error:
        return None, [f"note: rates are not known: the shared store failed: {describe(error)}"]
    return {queue: total(each) for queue, each in points.items()}, []


def _row(line: Line, *, has_rates: bool) -> tuple[Any, ...]:
    def cell(value: Any) -> Any:
        return NOT_AVAILABLE if value is None else value

    counts, recent = line.counts, line.recent
    rates: tuple[Any, ...] = ()
    if has_rates and recent is not None:
        rates = (shown_rate(recent.per_second), shown_share(recent.error_rate))
    oldest = None if counts.oldest_age is None else age(counts.oldest_age.total_seconds())
    return (
        counts.queue,
        counts.waiting,
        cell(counts.scheduled),
        cell(counts.in_flight),
        f"≥{counts.dead}" if counts.dead_is_lower_bound else counts.dead,
        *rates,
        cell(oldest) if counts.waiting else None,
        _state(line),
    )


def _state(line: Line) -> str | None:
    if line.counts.paused:
        return "paused"
    if line.has_no_worker:
        return "no worker"
    return NOT_AVAILABLE if line.counts.paused is None else None


def shown_rate(per_second: float) -> str:
    """Write a rate in a table."""
    return f"{per_second:.0f}" if per_second >= 1 or not per_second else f"{per_second:.1g}"


def shown_share(rate: float | None) -> str | None:
    """Write a share of 0 to 1 in a table."""
    if not rate:
        return None if rate is None else "0%"
    return "<1%" if rate < 0.01 else f"{rate:.0%}"
