"""Retry policies: waits grow, have a maximum and respect Retry-After."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formrelay.core.errors import InvalidPolicy
from formrelay.core.retry import (
    LONGEST_BACKOFF,
    LONGEST_WAIT,
    Backoff,
    Exponential,
    Linear,
    RetryPolicy,
    Schedule,
)

ZERO = timedelta(0)
DURATIONS = st.timedeltas(ZERO, timedelta(days=3))
ANY_DURATION = st.timedeltas(ZERO, timedelta.max)
#: Attempt numbers, from invalid ones (0, negative) to numbers beyond the range of floats.
ATTEMPTS = st.integers(-5, 100) | st.sampled_from([2**31, 2**63, 2**64, 10**400])
EXPONENTIALS = st.builds(Exponential, base=DURATIONS, cap=DURATIONS)
LINEARS = st.builds(Linear, step=DURATIONS, cap=DURATIONS)
SCHEDULES = st.builds(Schedule, st.lists(DURATIONS, min_size=1, max_size=8).map(tuple))
BACKOFFS: st.SearchStrategy[Backoff] = EXPONENTIALS | LINEARS | SCHEDULES
JITTERS = st.floats(0, 1)
SHARES = st.floats(0, 1)


def seconds(backoff: Backoff, *attempts: int) -> list[float]:
    return [backoff.wait(attempt).total_seconds() for attempt in attempts]


def test_exponential_waits_double_up_to_the_cap() -> None:
    backoff = Exponential(timedelta(seconds=1), timedelta(seconds=60))
    assert seconds(backoff, *range(2, 10)) == [1, 2, 4, 8, 16, 32, 60, 60]


def test_linear_waits_grow_by_a_step_up_to_the_cap() -> None:
    backoff = Linear(timedelta(seconds=5), timedelta(seconds=12))
    assert seconds(backoff, 2, 3, 4, 5) == [5, 10, 12, 12]


def test_a_schedule_has_a_delay_for_each_attempt_and_repeats_the_last() -> None:
    backoff = Schedule(tuple(timedelta(seconds=n) for n in (0, 30, 120, 600)))
    assert seconds(backoff, 1, 2, 3, 4, 5, 1000, 10**400) == [0, 30, 120, 600, 600, 600, 600]
    assert seconds(backoff, 0, -7) == [0, 0]


@given(SCHEDULES, ATTEMPTS)
def test_a_schedule_returns_only_its_delays(backoff: Schedule, attempt: int) -> None:
    assert backoff.wait(attempt) in backoff.delays


@given(SCHEDULES, st.integers(0, 10**20))
def test_after_its_end_a_schedule_returns_the_last_delay(backoff: Schedule, past: int) -> None:
    assert backoff.wait(len(backoff.delays) + past) == backoff.delays[-1]


def test_a_schedule_without_delays_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one delay"):
        Schedule(())


@given(EXPONENTIALS | LINEARS, ATTEMPTS)
def test_no_wait_is_negative_or_above_the_cap(backoff: Exponential | Linear, attempt: int) -> None:
    assert ZERO <= backoff.wait(attempt) <= backoff.cap


@given(EXPONENTIALS | LINEARS, ATTEMPTS, ATTEMPTS)
def test_without_jitter_a_later_attempt_waits_at_least_as_long(
    backoff: Exponential | Linear, one: int, other: int
) -> None:
    earlier, later = sorted((one, other))
    assert backoff.wait(earlier) <= backoff.wait(later)


@given(EXPONENTIALS | LINEARS)
def test_a_growing_wait_reaches_the_cap(backoff: Exponential | Linear) -> None:
    grows = backoff.wait(2) > ZERO
    assert backoff.wait(10**400) == (backoff.cap if grows else ZERO) or not grows


@given(BACKOFFS, JITTERS, SHARES, ATTEMPTS, st.none() | ANY_DURATION)
def test_jitter_adds_at_most_its_share_and_no_wait_exceeds_a_day(
    backoff: Backoff, jitter: float, share: float, attempt: int, asked: timedelta | None
) -> None:
    policy = RetryPolicy(backoff=backoff, jitter=jitter)
    bare = policy.wait_before(attempt, at_least=asked, uniform=lambda low, high: low)
    wait = policy.wait_before(
        attempt, at_least=asked, uniform=lambda low, high: low + (high - low) * share
    )
    most = policy.wait_before(attempt, at_least=asked, uniform=lambda low, high: high)
    assert bare <= wait <= most <= LONGEST_BACKOFF
    assert most <= LONGEST_WAIT or bare > LONGEST_WAIT
    assert most <= bare * (1 + jitter) + timedelta(microseconds=1)


@given(BACKOFFS, JITTERS, ATTEMPTS)
def test_random_jitter_stays_within_bounds(backoff: Backoff, jitter: float, attempt: int) -> None:
    policy = RetryPolicy(backoff=backoff, jitter=jitter)
    bare = min(backoff.wait(attempt), LONGEST_BACKOFF)
    wait = policy.wait_before(attempt)
    assert bare <= wait <= min(bare * (1 + jitter) + timedelta(microseconds=1), LONGEST_BACKOFF)


@given(BACKOFFS, JITTERS, ATTEMPTS, ANY_DURATION)
def test_retry_after_lengthens_the_wait_up_to_a_day(
    backoff: Backoff, jitter: float, attempt: int, asked: timedelta
) -> None:
    policy = RetryPolicy(backoff=backoff, jitter=jitter)
    wait = policy.wait_before(attempt, at_least=asked)
    assert wait >= max(min(asked, LONGEST_WAIT), min(backoff.wait(attempt), LONGEST_BACKOFF))
    assert wait <= LONGEST_WAIT or backoff.wait(attempt) > LONGEST_WAIT


def test_the_other_side_can_ask_for_a_day_and_a_policy_for_a_week() -> None:
    assert (timedelta(hours=24), timedelta(days=7)) == (LONGEST_WAIT, LONGEST_BACKOFF)


def test_jitter_is_random_by_default() -> None:
    policy = RetryPolicy(backoff=Exponential(base=timedelta(seconds=10)), jitter=0.5)
    assert len({policy.wait_before(2) for _ in range(50)}) > 10


@pytest.mark.parametrize(
    ("attempt", "most", "another"),
    [(1, 3, True), (2, 3, True), (3, 3, False), (4, 3, False), (10**400, 3, False), (1, 1, False)],
)
def test_max_attempts_limits_the_attempts(attempt: int, most: int, another: bool) -> None:
    assert RetryPolicy(max_attempts=most).allows_another(attempt, ValueError()) is another


def test_should_retry_gets_error_and_attempt_and_can_end_retries() -> None:
    seen: list[tuple[BaseException, int]] = []

    def should_retry(error: BaseException, attempt: int) -> bool:
        seen.append((error, attempt))
        return isinstance(error, ValueError)

    policy = RetryPolicy(max_attempts=3, should_retry=should_retry)
    value, key = ValueError(), KeyError()
    assert policy.allows_another(2, value)
    assert not policy.allows_another(1, key)
    assert seen == [(value, 2), (key, 1)]


def test_should_retry_cannot_add_attempts() -> None:
    policy = RetryPolicy(max_attempts=3, should_retry=lambda error, attempt: True)
    assert not policy.allows_another(3, ValueError())


def test_but_changes_only_the_named_fields() -> None:
    policy = RetryPolicy(max_attempts=7, jitter=0.3)
    changed = policy.but(max_attempts=2)
    assert (changed.max_attempts, changed.jitter, changed.backoff) == (2, 0.3, policy.backoff)
    assert policy.max_attempts == 7


SECOND = timedelta(seconds=1)


class Own:
    """A custom backoff that returns an invalid wait."""

    def __init__(self, wait: object) -> None:
        self._wait = wait

    def wait(self, attempt: int) -> Any:
        return self._wait


async def an_async_function(error: BaseException, attempt: int) -> bool:
    return False


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Schedule([5, 10]), r"delays\[0\] to be a timedelta, got int: write timedelta\(s"),
        (lambda: Schedule((SECOND, True)), r"expected delays\[1\] to be a timedelta, got bool$"),
        (lambda: Schedule((SECOND, -SECOND)), r"expected delays\[1\] to be zero or more"),
        (lambda: Schedule(5), "expected delays to be timedeltas, got 5"),
        (lambda: Schedule("0,5"), r"expected delays\[0\] to be a timedelta, got str$"),
        (lambda: Linear(step=1), "expected step to be a timedelta, got int: write timedelta"),
        (lambda: Linear(step=SECOND, cap=-SECOND), "expected cap to be zero or more"),
        (lambda: Linear(step=float("nan")), "expected step to be a timedelta, got float"),
        (lambda: Exponential(base=2.5), r"write timedelta\(seconds=2\.5\)"),
        (lambda: Exponential(cap=None), "expected cap to be a timedelta, got NoneType"),
        (lambda: Exponential(base=-SECOND), "expected base to be zero or more"),
        (lambda: RetryPolicy(max_attempts="2"), "max_attempts to be a whole number, got '2'"),
        (lambda: RetryPolicy(max_attempts=2.0), "max_attempts to be a whole number, got 2.0"),
        (lambda: RetryPolicy(max_attempts=True), "max_attempts to be a whole number, got True"),
        (lambda: RetryPolicy(max_attempts=None), "max_attempts to be a whole number, got None"),
        (lambda: RetryPolicy(max_attempts=0), "max_attempts to be at least 1, got 0"),
        (lambda: RetryPolicy(jitter=SECOND), "jitter to be a number from 0 to 1, got datetime"),
        (lambda: RetryPolicy(jitter=True), "jitter to be a number from 0 to 1, got True"),
        (lambda: RetryPolicy(jitter="0.1"), "jitter to be a number from 0 to 1, got '0.1'"),
        (lambda: RetryPolicy(jitter=1.01), "jitter to be a number from 0 to 1, got 1.01"),
        (lambda: RetryPolicy(jitter=-0.1), "jitter to be a number from 0 to 1, got -0.1"),
        (lambda: RetryPolicy(jitter=float("nan")), "jitter to be a number from 0 to 1, got nan"),
        (lambda: RetryPolicy(jitter=float("inf")), "jitter to be a number from 0 to 1, got inf"),
        (lambda: RetryPolicy(backoff=SECOND), "expected backoff to be an object with a method"),
        (lambda: RetryPolicy(backoff=None), "expected backoff to be an object with a method"),
        (lambda: RetryPolicy(backoff=Exponential), "expected backoff to be an object"),
        (lambda: RetryPolicy(should_retry=True), "should_retry to be a function"),
        (lambda: RetryPolicy(should_retry=an_async_function), "that is not async"),
        (lambda: RetryPolicy(count_unavailable="no"), "count_unavailable to be True or False"),
        (lambda: RetryPolicy().but(max_attempts="2"), "max_attempts to be a whole number"),
    ],
)
def test_an_invalid_policy_is_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(InvalidPolicy, match=said):
        make()


def test_a_schedule_copies_a_list_of_delays() -> None:
    delays = [SECOND, 2 * SECOND]
    backoff = Schedule(delays)  # type: ignore[arg-type]
    delays.clear()
    assert backoff == Schedule((SECOND, 2 * SECOND))
    assert hash(backoff)


@pytest.mark.parametrize("wait", [5, None, -SECOND, "1s", float("nan")], ids=repr)
def test_the_wait_of_a_custom_backoff_is_checked(wait: object) -> None:
    with pytest.raises(InvalidPolicy, match="expected the wait before attempt 2 to be"):
        RetryPolicy(backoff=Own(wait)).wait_before(2)
