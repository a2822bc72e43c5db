"""An exponential back-off that remembers its failures: when to try again."""

from __future__ import annotations

import random
from datetime import timedelta

from .clock import Clock
from .retry import Exponential


class BackoffTimer:
    """The wait after a series of failures, doubled at each failure up to the cap.

    Not thread-safe: its owner guards it.

    Attributes:
        failures: number of failures since the last success.
        due_at: monotonic seconds of the next try.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.failures = 0
        self.due_at = 0.0

    @property
    def remaining(self) -> timedelta:
        """The time until the next try; zero when it is due."""
        return timedelta(seconds=max(0.0, self.due_at - self._clock.monotonic()))

    def fail(
        self, backoff: Exponential, *, at_least: timedelta | None = None, jitter: float = 0.0
    ) -> timedelta:
        """Count a failure and begin the wait after it.

        Args:
            backoff: the first and the longest wait.
            at_least: the wait that the other side asked for; limited to the longest wait.
            jitter: maximum share of the wait that is added at random.

        Returns:
            The time until the next try.
        """
        self.failures += 1
        wait = backoff.wait(self.failures + 1)
        if at_least is not None:
            wait = max(wait, min(at_least, backoff.cap))
        wait *= 1 + random.uniform(0, jitter)  # noqa: S311 - no secret
        self.due_at = self._clock.monotonic() + wait.total_seconds()
        return wait

    def reset(self) -> None:
        """Forget the failures: the next wait is the first wait of the back-off."""
        self.failures = 0
        self.due_at = 0.0
