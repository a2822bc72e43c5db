"""A clock that runs like the machine's clock and that a test can move forward."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from ..core.clock import SYSTEM_CLOCK, Clock


class MovableClock:
    """The machine's clock plus an offset.

    Attributes:
        on_move: called after each move.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._offset = 0.0
        self.on_move: Callable[[], None] = lambda: None

    def time(self) -> float:
        """Unix time in seconds."""
        return self._clock.time() + self._offset

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never decreases."""
        return self._clock.monotonic() + self._offset

    @property
    def moved(self) -> timedelta:
        """Total time by which it was moved."""
        return timedelta(seconds=self._offset)

    def move(self, by: timedelta) -> None:
        """Move the clock forward; messages that are due by then become due now.

        Raises:
            ValueError: ``by`` is not a timedelta, or is negative.
        """
        if not isinstance(by, timedelta) or by < timedelta(0):
            raise ValueError(
                f"expected a timedelta of zero or more, like timedelta(hours=1), got {by!r}"
            )
        self._offset += by.total_seconds()
        self.on_move()

    def reset(self) -> None:
        """Set the clock back to the machine's time, between two tests."""
        self._offset = 0.0
