"""Decides which spreadsheets a process writes to at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock

from ...core.clock import SYSTEM_CLOCK, Clock
from ...core.errors import NotNow

_SHORTEST, _LONGEST = 0.2, 60.0


@dataclass(slots=True)
class _Sheet:
    """A spreadsheet that is being written to, or was a short time ago.

    Attributes:
        took: seconds that the last batch took.
        next_turn: monotonic seconds at which deferred jobs come back.
        booked: number of their rows.
    """

    took: float = 1.0
    next_turn: float = 0.0
    booked: int = 0
    is_busy: bool = False


class Slots:
    """Allows one batch at a time for a spreadsheet, and a number of spreadsheets. Thread-safe.

    A spreadsheet that answers slowly so occupies one thread, not all. (Two calls would not be
    faster: Google executes calls for one spreadsheet one after the other.)

    Args:
        number: number of spreadsheets at a time.
        rows: number of rows that one batch writes.
    """

    def __init__(self, number: int, rows: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._number, self._rows, self._clock = number, rows, clock
        self._lock = Lock()
        self._sheets: dict[str, _Sheet] = {}

    @contextmanager
    def hold(self, spreadsheet: str, rows: int) -> Iterator[None]:
        """Write rows to a spreadsheet.

        Raises:
            NotNow: another batch is being written to it, or too many spreadsheets are.
        """
        with self._lock:
            started = self._clock.monotonic()
            sheet = self._sheets.setdefault(spreadsheet, _Sheet())
            busy = sum(each.is_busy for each in self._sheets.values())
            if sheet.is_busy or busy >= self._number:
                raise self._not_now(sheet, rows, started)
            sheet.is_busy = True
        try:
            yield
        finally:
            with self._lock:
                now = self._clock.monotonic()
                sheet.is_busy = False
                sheet.took = min(max(now - started, _SHORTEST), _LONGEST)
                self._forget_idle(now)

    def _not_now(self, sheet: _Sheet, rows: int, now: float) -> NotNow:
        """Deferred batches come back one after the other; small batches together, as one batch."""
        if sheet.next_turn <= now or sheet.booked + rows > self._rows:
            sheet.next_turn = min(max(now, sheet.next_turn) + sheet.took, now + _LONGEST)
            sheet.booked = 0
        sheet.booked += rows
        wait = timedelta(seconds=sheet.next_turn - now)
        if sheet.is_busy:
            return NotNow("another batch is being written to this spreadsheet", after=wait)
        return NotNow("as many spreadsheets are written to as may be at a time", after=wait)

    def _forget_idle(self, now: float) -> None:
        self._sheets = {
            name: each
            for name, each in self._sheets.items()
            if each.is_busy or each.next_turn > now
        }
