"""When to try again: retry policies.

A policy answers two questions and nothing else: is there another attempt
after this one, and how long is the wait before it. Attempts count from 1.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from inspect import iscoroutinefunction
from typing import Protocol

from .errors import InvalidPolicy

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

    def __post_init__(self) -> None:
        _check_wait("base", self.base)
        _check_wait("cap", self.cap)

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

    def __post_init__(self) -> None:
        _check_wait("step", self.step)
        _check_wait("cap", self.cap)

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
        if not isinstance(self.delays, Iterable):
            raise InvalidPolicy(f"expected delays to be timedeltas, got {self.delays!r}")
        # A list is accepted and stored as a tuple, so that nobody changes it afterwards.
        object.__setattr__(self, "delays", tuple(self.delays))
        if not self.delays:
            raise InvalidPolicy("expected at least one delay in a schedule, got none")
        for index, delay in enumerate(self.delays):
            _check_wait(f"delays[{index}]", delay)

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

    Raises:
        InvalidPolicy: a value is of the wrong type or out of range. A ``backoff`` of your own
            is checked when it returns a wait.
    """

    max_attempts: int = 3
    backoff: Backoff = field(default_factory=Exponential)
    jitter: float = 0.1
    should_retry: Callable[[BaseException, int], bool] | None = None
    count_unavailable: bool = True

    def __post_init__(self) -> None:
        most, jitter, decide = self.max_attempts, self.jitter, self.should_retry
        # bool is an int to isinstance(), and no number of attempts.
        if isinstance(most, bool) or not isinstance(most, int):
            raise InvalidPolicy(f"expected max_attempts to be a whole number, got {most!r}")
        if most < 1:
            raise InvalidPolicy(f"expected max_attempts to be at least 1, got {most}")
        if isinstance(self.backoff, type) or not callable(getattr(self.backoff, "wait", None)):
            raise InvalidPolicy(
                "expected backoff to be an object with a method wait(attempt), like "
                f"Exponential(), got {self.backoff!r}"
            )
        if isinstance(jitter, bool) or not isinstance(jitter, int | float):
            raise InvalidPolicy(f"expected jitter to be a number from 0 to 1, got {jitter!r}")
        if not 0 <= jitter <= 1:  # nor is NaN
            raise InvalidPolicy(f"expected jitter to be a number from 0 to 1, got {jitter!r}")
        if decide is not None and (not callable(decide) or iscoroutinefunction(decide)):
            raise InvalidPolicy(
                "expected should_retry to be a function of (error, attempt) that is not async, "
                f"got {decide!r}"
            )
        if not isinstance(self.count_unavailable, bool):
            raise InvalidPolicy(
                f"expected count_unavailable to be True or False, got {self.count_unavailable!r}"
            )

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

        Raises:
            InvalidPolicy: the backoff returned something else than a wait.
        """
        wait = self.backoff.wait(attempt)
        _check_wait(f"the wait before attempt {attempt}", wait)
        if at_least is not None:
            wait = max(wait, at_least)
        # Cut before the product too, which overflows for the longest of timedeltas.
        wait = min(wait, LONGEST_WAIT) * (1 + uniform(0, self.jitter))
        return min(wait, LONGEST_WAIT)

    def but(self, **changes: object) -> RetryPolicy:
        """The same policy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


def _check_wait(name: str, value: object) -> None:
    if not isinstance(value, timedelta):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        advice = f": write timedelta(seconds={value!r})" if is_number else ""
        raise InvalidPolicy(
            f"expected {name} to be a timedelta, got {type(value).__name__}{advice}"
        )
    if value < timedelta(0):
        raise InvalidPolicy(f"expected {name} to be zero or more, got {value!r}")
