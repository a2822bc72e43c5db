"""When to try again: retry policies.

A policy answers two questions and nothing else: is there another attempt
after this one, and how long is the wait before it. Attempts count from 1.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Protocol

#: No wait is longer, whatever a policy or a Retry-After asks for.
LONGEST_WAIT = timedelta(hours=24)


class Backoff(Protocol):
    """The wait before an attempt, without jitter."""

    def wait(self, attempt: int) -> timedelta:
        """The wait before ``attempt`` (2 is the first retry)."""


@dataclass(frozen=True, slots=True)
class Exponential:
    """``base``, twice that, four times that, … up to ``cap``."""

    base: timedelta = timedelta(seconds=1)
    cap: timedelta = timedelta(seconds=60)

    def wait(self, attempt: int) -> timedelta:
        # 2**40 base seconds is far beyond any cap: the exponent is cut so that a
        # message with a huge attempt count cannot overflow a timedelta.
        doublings = min(max(attempt - 2, 0), 40)
        seconds = self.base.total_seconds() * 2.0**doublings
        return timedelta(seconds=min(seconds, self.cap.total_seconds()))


@dataclass(frozen=True, slots=True)
class Linear:
    """``step``, twice that, three times that, … up to ``cap``."""

    step: timedelta = timedelta(seconds=1)
    cap: timedelta = timedelta(seconds=60)

    def wait(self, attempt: int) -> timedelta:
        # Cut for the same reason: no float holds the largest integers.
        seconds = self.step.total_seconds() * min(max(attempt - 1, 0), 2**40)
        return timedelta(seconds=min(seconds, self.cap.total_seconds()))


@dataclass(frozen=True, slots=True)
class Schedule:
    """A fixed list: ``delays[n]`` is the wait before attempt ``n + 1``.

    The first entry is the wait before the first attempt (0 in every schedule
    that we ship); past the end the last entry repeats.
    """

    delays: tuple[timedelta, ...]

    def __post_init__(self) -> None:
        if not self.delays:
            raise ValueError("expected at least one delay in a schedule, got none")

    def wait(self, attempt: int) -> timedelta:
        return self.delays[min(max(attempt, 1), len(self.delays)) - 1]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how far apart a job is tried.

    Attributes:
        max_attempts: attempts in all, the first one included.
        backoff: the wait before each.
        jitter: at most this share is added to a wait (0.1 is up to 10 %),
            never taken away: a receiver that asked for a pause gets it whole.
        should_retry: a last word on an error that would otherwise be retried;
            it cannot turn a permanent error into a retried one.
        count_unavailable: whether an attempt counts that the sink had no part
            in: it is away, busy, or not set up for us. Where it does not, the job
            waits for the sink however long that takes, and no outage can use
            its attempts up.
    """

    max_attempts: int = 3
    backoff: Backoff = field(default_factory=Exponential)
    jitter: float = 0.1
    should_retry: Callable[[BaseException, int], bool] | None = None
    count_unavailable: bool = True

    def allows_another(self, attempt: int, error: BaseException) -> bool:
        """Whether there is an attempt after ``attempt``, which ended in ``error``."""
        if attempt >= self.max_attempts:
            return False
        return self.should_retry is None or self.should_retry(error, attempt)

    def wait_before(
        self,
        attempt: int,
        *,
        at_least: timedelta | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> timedelta:
        """The wait before ``attempt``, jitter included, never above :data:`LONGEST_WAIT`.

        Args:
            at_least: what the other side asked for (Retry-After).
            uniform: the source of jitter, ``uniform(low, high)``.
        """
        wait = self.backoff.wait(attempt)
        if at_least is not None:
            wait = max(wait, at_least)
        # Cut before the product too, which overflows for the longest of timedeltas.
        wait = min(wait, LONGEST_WAIT) * (1 + uniform(0, self.jitter))
        return min(wait, LONGEST_WAIT)

    def but(self, **changes: object) -> RetryPolicy:
        """The same policy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]
