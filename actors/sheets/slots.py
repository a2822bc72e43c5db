"""Limits how many spreadsheets a process writes to at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock

from ...core.clock import SYSTEM_CLOCK, Clock
from ...core.errors import DeferReason, NotNow

_SHORTEST, _LONGEST = 0.2, 60.0


@dataclass(slots=True)
class _Slot:
    """A spreadsheet that is being written to, or for which jobs are deferred.

    Attributes:
        took: seconds that the last batch took.
        next_turn: monotonic seconds at which the jobs deferred last come back.
        booked: number of rows of the jobs that come back then.
        is_busy: whether a batch is being written.
    """

    took: float = 1.0
    next_turn: float = 0.0
    booked: int = 0
    is_busy: bool = False


class Slots:
    """Allows one batch at a time for each spreadsheet. Thread-safe.

    So a spreadsheet that answers slowly occupies one thread, not all. Two threads would not be
    faster, because Google executes the calls for a spreadsheet one after the other.

    Args:
        number: maximum number of spreadsheets at the same time.
        rows: maximum number of rows of a batch.
    """

    def __init__(self, number: int, rows: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._number, self._rows, self._clock = number, rows, clock
        self._lock = Lock()
        self._slots: dict[str, _Slot] = {}

    @contextmanager
    def hold(self, spreadsheet: str, rows: int) -> Iterator[None]:
        """Hold the slot of a spreadsheet while rows are written to it.

        Raises:
            NotNow: another batch holds it, or the maximum number of slots is held.
        """
        with self._lock:
            started = self._clock.monotonic()
            slot = self._slots.setdefault(spreadsheet, _Slot())
            busy = sum(each.is_busy for each in self._slots.values())
            if slot.is_busy or busy >= self._number:
                raise self._not_now(slot, rows, started)
            slot.is_busy = True
        try:
            yield
        finally:
            with self._lock:
                now = self._clock.monotonic()
                slot.is_busy = False
                slot.took = min(max(now - started, _SHORTEST), _LONGEST)
                self._forget_idle(now)

    def _not_now(self, slot: _Slot, rows: int, now: float) -> NotNow:
        """The error that defers a batch. Small batches come back together, to become one batch."""
        if slot.next_turn <= now or slot.booked + rows > self._rows:
            slot.next_turn = min(max(now, slot.next_turn) + slot.took, now + _LONGEST)
            slot.booked = 0
        slot.booked += rows
        wait = timedelta(seconds=slot.next_turn - now)
        if slot.is_busy:
            return NotNow(
                "another batch is being written to this spreadsheet",
                after=wait,
                reason=DeferReason.BUSY,
            )
        return NotNow(
            "the maximum number of spreadsheets is being written to",
            after=wait,
            reason=DeferReason.BUSY,
        )

    def _forget_idle(self, now: float) -> None:
        self._slots = {
            name: each for name, each in self._slots.items() if each.is_busy or each.next_turn > now
        }
