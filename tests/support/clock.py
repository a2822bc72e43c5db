"""A clock that a test sets."""

from __future__ import annotations


class ManualClock:
    """Both times are ``now``."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now
