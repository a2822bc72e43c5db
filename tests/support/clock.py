"""A clock whose time is set by the test."""

from __future__ import annotations


class ManualClock:
    """Returns ``now`` for wall-clock and monotonic time."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now
