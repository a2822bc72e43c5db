"""An exponential back-off that remembers its failures: when to try again."""

from __future__ import annotations

from datetime import timedelta

from .clock import Clock
from .retry import Exponential


class BackoffTimer:
    """The wait after a series of failures, doubled at each failure up to the cap.

    Not thread-safe: its owner guards it.

    Attributes:
        due_at: monotonic seconds of the next try.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self.due_at = 0.0

    @property
    def remaining(self) -> timedelta:
        """The time until the next try; zero when it is due."""
        return timedelta(seconds=max(0.0, self.due_at - self._clock.monotonic()))

    def fail(self, backoff: Exponential, *, at_least: timedelta | None = None) -> timedelta:
        """Begin the wait after another failure.

        Args:
            backoff: the first wait and the longest one.
            at_least: what the other side asked for; counts up to the longest wait.

        Returns:
            The time until the next try.
        """
        self._failures += 1
        wait = backoff.wait(self._failures + 1)
        if at_least is not None:
            wait = max(wait, min(at_least, backoff.cap))
        self.due_at = self._clock.monotonic() + wait.total_seconds()
        return wait

    def reset(self) -> None:
        """Forget the failures: the next one waits for the shortest time."""
        self._failures = 0
        self.due_at = 0.0
