"""How many attempts a worker process made a second in the last minute, and how many failed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ..state.history import Tally

#: Seconds over which the rate is taken.
_WINDOW = 60.0


class RecentRate:
    """Sums the counts of the last minute. Not thread-safe.

    Args:
        now: monotonic seconds at the start of the worker.
    """

    def __init__(self, now: float) -> None:
        self._began = now
        self._added: deque[tuple[float, int, int]] = deque()

    def add(self, now: float, tallies: Iterable[Tally]) -> None:
        """Add the counts since the last call.

        Args:
            now: monotonic seconds.
        """
        attempts = failed = 0
        for tally in tallies:
            failed += tally.retried + tally.dead
            attempts += tally.done + tally.retried + tally.dead
        if attempts:
            self._added.append((now, attempts, failed))
        while self._added and self._added[0][0] <= now - _WINDOW:
            self._added.popleft()

    def figures(self, now: float) -> tuple[float, float | None]:
        """Attempts per second, and the share of them that failed; None without attempts."""
        attempts = sum(each[1] for each in self._added)
        failed = sum(each[2] for each in self._added)
        seconds = min(_WINDOW, max(1.0, now - self._began))
        return attempts / seconds, failed / attempts if attempts else None
