"""Retry policies: whether there is another attempt, and how long to wait before it.

Attempts count from 1.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from inspect import iscoroutinefunction
from typing import Protocol

from .errors import InvalidPolicy

#: Maximum wait that a Retry-After header can ask for. Jitter does not exceed it either.
LONGEST_WAIT = timedelta(hours=24)
#: Maximum wait that a policy can ask for, as in stock Dramatiq.
LONGEST_BACKOFF = timedelta(days=7)


class Backoff(Protocol):
    """A function from attempt number to wait, without jitter."""

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
        # The exponent is limited so that a message with a huge attempt count cannot overflow a
        # timedelta. 2**40 base seconds are beyond any cap.
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
        # Limited so that a huge attempt count cannot overflow a float.
        seconds = self.step.total_seconds() * min(max(attempt - 1, 0), 2**40)
        return timedelta(seconds=min(seconds, self.cap.total_seconds()))


@dataclass(frozen=True, slots=True)
class Schedule:
    """A fixed list of waits: ``delays[n]`` is the wait before attempt ``n + 1``.

    The first entry, the wait before the first attempt, is 0 in every schedule of formrelay.
    After the end, the last entry repeats.
    """

    delays: tuple[timedelta, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.delays, Iterable):
            raise InvalidPolicy(f"expected delays to be timedeltas, got {self.delays!r}")
        # Stored as a tuple, so that nobody changes the list afterwards.
        object.__setattr__(self, "delays", tuple(self.delays))
        if not self.delays:
            raise InvalidPolicy("expected at least one delay in a schedule, got none")
        for index, delay in enumerate(self.delays):
            _check_wait(f"delays[{index}]", delay)

    def wait(self, attempt: int) -> timedelta:
        return self.delays[min(max(attempt, 1), len(self.delays)) - 1]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The number of attempts of a job, and the waits between them.

    Attributes:
        max_attempts: maximum number of attempts, the first one included.
        backoff: the wait before each attempt.
        jitter: maximum share that is added to a wait at random (0.1 adds up to 10 %). Nothing
            is subtracted, so a ``Retry-After`` is always respected.
        should_retry: called with the error and the attempt number; False ends the retries. Not
            called for permanent errors, which are never retried.
        throws: types of errors that are never retried.
        attempts_by_error: pairs of a type of error and a maximum that counts for such errors
            instead of ``max_attempts``.
        count_unavailable: whether attempts count while the sink is unavailable, busy or not set
            up. If False, the job waits for the sink without using attempts.
        unavailable_backoff: the wait for the sink in that case, if it is not ``backoff``.

    Raises:
        InvalidPolicy: a value has the wrong type or is out of range. The result of a custom
            ``backoff`` is checked when it is used.
    """

    max_attempts: int = 3
    backoff: Backoff = field(default_factory=Exponential)
    jitter: float = 0.1
    should_retry: Callable[[BaseException, int], bool] | None = None
    count_unavailable: bool = True
    throws: tuple[type[BaseException], ...] = ()
    attempts_by_error: tuple[tuple[type[BaseException], int], ...] = ()
    unavailable_backoff: Backoff | None = None

    def __post_init__(self) -> None:
        jitter, decide = self.jitter, self.should_retry
        _check_attempts("max_attempts", self.max_attempts)
        for kind, most in self.attempts_by_error:
            check_throws((kind,))
            _check_attempts("attempts_by_error", most)
        if isinstance(self.backoff, type) or not callable(getattr(self.backoff, "wait", None)):
            raise InvalidPolicy(
                "expected backoff to be an object with a method wait(attempt), like "
                f"Exponential(), got {self.backoff!r}"
            )
        is_number = isinstance(jitter, int | float) and not isinstance(jitter, bool)
        if not (is_number and 0 <= jitter <= 1):  # also refuses NaN
            raise InvalidPolicy(f"expected jitter to be a number from 0 to 1, got {jitter!r}")
        if decide is not None and (not callable(decide) or iscoroutinefunction(decide)):
            raise InvalidPolicy(
                "expected should_retry to be a function of (error, attempt) that is not async, "
                f"got {decide!r}"
            )
        check_throws(self.throws)
        if not isinstance(self.count_unavailable, bool):
            raise InvalidPolicy(
                f"expected count_unavailable to be True or False, got {self.count_unavailable!r}"
            )

    def attempts_for(self, error: BaseException) -> int:
        """The maximum number of attempts of a job that failed with ``error``."""
        for kind, most in self.attempts_by_error:
            if isinstance(error, kind):
                return most
        return self.max_attempts

    def allows_another(self, attempt: int, error: BaseException) -> bool:
        """Whether to try again after ``attempt``, which raised ``error``."""
        if attempt >= self.attempts_for(error):
            return False
        return self.should_retry is None or self.should_retry(error, attempt)

    def wait_before(
        self,
        attempt: int,
        *,
        at_least: timedelta | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> timedelta:
        """The wait before ``attempt`` including jitter, at most :data:`LONGEST_BACKOFF`.

        Args:
            attempt: the number of the next attempt (2 is the first retry).
            at_least: the wait that the other side asked for (Retry-After); up to
                :data:`LONGEST_WAIT` counts.
            uniform: the source of jitter, ``uniform(low, high)``.

        Raises:
            InvalidPolicy: the backoff did not return a wait.
        """
        wait = self.backoff.wait(attempt)
        _check_wait(f"the wait before attempt {attempt}", wait)
        if at_least is not None:
            wait = max(wait, min(at_least, LONGEST_WAIT))
        longest = LONGEST_WAIT if wait <= LONGEST_WAIT else LONGEST_BACKOFF
        # Limited before the product too, which would overflow for the longest timedelta.
        return min(min(wait, longest) * (1 + uniform(0, self.jitter)), longest)

    def but(self, **changes: object) -> RetryPolicy:
        """A copy of the policy with some fields changed."""
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


def _check_attempts(name: str, value: object) -> None:
    # bool is a subclass of int, but not a number of attempts.
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidPolicy(f"expected {name} to be a whole number, got {value!r}")
    if value < 1:
        raise InvalidPolicy(f"expected {name} to be at least 1, got {value}")


def check_throws(value: object) -> None:
    """Check a tuple of exception classes.

    Raises:
        InvalidPolicy: it is something else.
    """
    kinds = value if isinstance(value, tuple) else (None,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise InvalidPolicy(
            f"expected throws to be an exception class or a tuple of them, got {value!r}"
        )
