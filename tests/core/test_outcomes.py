"""classify: a table of errors, attempts and policies, and their outcomes."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formrelay.core.errors import (
    BrokerError,
    ConfigError,
    FormrelayError,
    InvalidJob,
    InvalidPolicy,
    NotNow,
    PartsFailed,
    SinkError,
    SinkPermanent,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)
from formrelay.core.failure import Reason
from formrelay.core.outcomes import DONE, Dead, Defer, Outcome, Retry, classify, undecided
from formrelay.core.retry import LONGEST_BACKOFF, LONGEST_WAIT, Linear, RetryPolicy, Schedule

SECRET = "SECRET-VALUE"
NOW = 1_769_851_800.0
S = timedelta(seconds=1)
#: The wait before attempt n is 10 (n - 1) seconds.
THREE = RetryPolicy(max_attempts=3, jitter=0, backoff=Linear(10 * S, 600 * S))
ONE = THREE.but(max_attempts=1)
PATIENT = THREE.but(count_unavailable=False)
NEVER = THREE.but(should_retry=lambda error, attempt: False)
ALWAYS = THREE.but(should_retry=lambda error, attempt: True)
FIRST_ONLY = THREE.but(should_retry=lambda error, attempt: attempt == 1)

EXHAUSTED, PERMANENT, INVALID = Reason.ATTEMPTS_EXHAUSTED, Reason.PERMANENT, Reason.INVALID
NOT_RETRIED = Reason.NOT_RETRIED


def transient(seconds: float | None = None) -> SinkTransient:
    asked = None if seconds is None else timedelta(seconds=seconds)
    return SinkTransient("busy", code=503, retry_after=asked)


def away(seconds: float | None = None) -> SinkUnavailable:
    return SinkUnavailable("away", retry_after=None if seconds is None else seconds * S)


@pytest.mark.parametrize(
    ("error", "attempt", "policy", "expected"),
    [
        # Success.
        (None, 1, THREE, DONE),
        (None, 99, ONE, DONE),
        (None, 1, NEVER, DONE),
        # Transient errors are retried after the back-off until the attempts are used up.
        (transient(), 1, THREE, 10 * S),
        (transient(), 2, THREE, 20 * S),
        (transient(), 3, THREE, EXHAUSTED),
        (transient(), 10**30, THREE, EXHAUSTED),
        (transient(), 1, ONE, EXHAUSTED),
        # Retry-After replaces a shorter back-off, up to a day.
        (transient(15), 1, THREE, 15 * S),
        (transient(15), 2, THREE, 20 * S),
        (transient(0), 1, THREE, 10 * S),
        (transient(10**7), 1, THREE, LONGEST_WAIT),
        (transient(15), 3, THREE, EXHAUSTED),
        # Exceptions of other packages count as transient.
        (ValueError(SECRET), 1, THREE, 10 * S),
        (ValueError(SECRET), 3, THREE, EXHAUSTED),
        (KeyboardInterrupt(), 1, THREE, 10 * S),
        (SystemExit(1), 3, THREE, EXHAUSTED),
        # So do our errors without another rule.
        (FormrelayError(), 1, THREE, 10 * S),
        (SinkError(retry_after=15 * S), 1, THREE, 15 * S),
        (ConfigError(), 2, THREE, 20 * S),
        (BrokerError(), 1, THREE, 10 * S),
        (PartsFailed({0: ValueError(SECRET)}), 1, THREE, 10 * S),
        # Permanent and invalid errors are dead at once with any policy.
        (SinkPermanent("no", code=400), 1, THREE, PERMANENT),
        (SinkPermanent("no", code=400), 1, ALWAYS, PERMANENT),
        (SinkPermanent("no", code=400), 1, PATIENT, PERMANENT),
        (InvalidJob("no"), 1, THREE, INVALID),
        (InvalidJob("no"), 1, ALWAYS, INVALID),
        # NotNow never uses an attempt.
        (NotNow("busy", after=5 * S), 1, THREE, ("busy", 5 * S)),
        (NotNow("busy", after=5 * S), 99, ONE, ("busy", 5 * S)),
        (NotNow("busy", after=5 * S), 1, NEVER, ("busy", 5 * S)),
        (NotNow("busy", after=timedelta.max), 1, THREE, ("busy", LONGEST_WAIT)),
        (NotNow("busy", after=0 * S), 1, THREE, ("busy", 0 * S)),
        # An unavailable sink uses an attempt, unless the policy waits for the sink.
        (away(), 1, THREE, 10 * S),
        (away(), 3, THREE, EXHAUSTED),
        (away(), 1, PATIENT, ("away", 10 * S)),
        (away(), 99, PATIENT, ("away", 600 * S)),
        (away(15), 1, PATIENT, ("away", 15 * S)),
        (away(10**7), 1, PATIENT, ("away", LONGEST_WAIT)),
        (away(), 99, PATIENT.but(should_retry=NEVER.should_retry), ("away", 600 * S)),
        # With such a policy, other errors still use an attempt.
        (transient(), 3, PATIENT, EXHAUSTED),
        (transient(), 1, PATIENT, 10 * S),
        # should_retry can end the retries early but cannot add attempts.
        (transient(), 1, NEVER, NOT_RETRIED),
        (transient(), 1, FIRST_ONLY, 10 * S),
        (transient(), 2, FIRST_ONLY, NOT_RETRIED),
        (transient(), 3, ALWAYS, EXHAUSTED),
        # throws: before anything else.
        (transient(), 1, THREE.but(throws=(SinkTransient,)), NOT_RETRIED),
        (NotNow("busy", after=S), 1, THREE.but(throws=(NotNow,)), NOT_RETRIED),
        (transient(), 1, THREE.but(throws=(OSError,)), 10 * S),
    ],
)
def test_each_error_has_one_outcome(
    error: BaseException | None,
    attempt: int,
    policy: RetryPolicy,
    expected: Outcome | timedelta | Reason | tuple[str, timedelta],
) -> None:
    match classify(error, attempt=attempt, policy=policy, now=NOW):
        case Retry(after=after, failure=failure):
            assert after == expected
            assert failure.attempt == attempt
        case Dead(failure=failure):
            assert failure.reason is expected
            assert failure.attempt == attempt
            assert failure.at == "2026-01-31T09:30:00.000Z"
            assert SECRET not in repr(failure)
        case Defer(after=after, why=why):
            assert (why, after) == expected
        case done:
            assert done is expected


def test_the_failure_record_has_the_code_of_the_response() -> None:
    for error, attempt in ((transient(), 1), (transient(), 3)):
        outcome = classify(error, attempt=attempt, policy=THREE, now=NOW)
        assert isinstance(outcome, Retry | Dead)
        assert outcome.failure.code == 503


ERRORS = st.sampled_from(
    [transient(), transient(9), away(), NotNow(after=S), SinkPermanent(), InvalidJob(), OSError()]
)


@given(ERRORS, st.integers(1, 10), st.integers(1, 10))
def test_no_job_is_retried_after_max_attempts(
    error: BaseException, attempt: int, most: int
) -> None:
    outcome = classify(error, attempt=attempt, policy=THREE.but(max_attempts=most), now=NOW)
    if isinstance(outcome, Retry):
        assert attempt < most


@given(ERRORS, st.integers(1, 10**9), st.floats(0, 1))
def test_no_outcome_waits_longer_than_a_week(
    error: BaseException, attempt: int, jitter: float
) -> None:
    policy = RetryPolicy(max_attempts=2**31, jitter=jitter, backoff=Linear(S, 10**6 * S))
    outcome = classify(error, attempt=attempt, policy=policy, now=NOW)
    if isinstance(outcome, Retry | Defer):
        assert timedelta(0) <= outcome.after <= LONGEST_BACKOFF


def test_outcomes_are_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        Defer(S, "why").after = 2 * S  # type: ignore[misc]


# -- outcomes that cannot be decided ---------------------------------------------------------


class Mute(SinkTransient):
    """An error whose text raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Bare(SinkTransient):
    """A subclass that does not call __init__ of its base."""

    def __init__(self) -> None:
        """Set nothing."""


def test_an_undecided_attempt_counts_as_failed_with_both_errors() -> None:
    policy = RetryPolicy(max_attempts=2, backoff=Schedule((timedelta(seconds=7),)), jitter=0)
    found = undecided(KeyError("x"), TypeError("y"), attempt=1, now=0.0, policy=policy)
    assert isinstance(found, Retry)
    assert found.after == timedelta(seconds=7)
    assert (found.failure.error, found.failure.reason) == ("KeyError", Reason.UNDECIDED)
    assert found.failure.message == "KeyError; the outcome could not be decided: TypeError"
    last = undecided(KeyError("x"), TypeError("y"), attempt=2, now=0.0, policy=policy)
    assert isinstance(last, Dead)
    assert last.failure.attempt == 2


def test_undecided_attempts_use_the_default_policy_and_have_a_limit() -> None:
    fault = TypeError()
    kinds = [type(undecided(None, fault, attempt=n, now=0.0)) for n in (1, 2, 3)]
    assert kinds == [Retry, Retry, Dead]
    endless = RetryPolicy(max_attempts=2**31)
    assert isinstance(undecided(None, fault, attempt=20, now=0.0, policy=endless), Retry)
    assert isinstance(undecided(None, fault, attempt=21, now=0.0, policy=endless), Dead)


@pytest.mark.parametrize("error", [Mute(), Bare()], ids=["no text", "no attributes"])
def test_errors_without_text_or_attributes_have_a_failure_record(error: BaseException) -> None:
    found = undecided(error, TypeError(), attempt=1, now=0.0)
    assert found.failure.error.endswith(type(error).__name__)
    assert "the outcome could not be decided: TypeError" in found.failure.message
    assert found.failure.to_json()["code"] is None


def test_a_type_of_error_may_have_a_maximum_of_its_own() -> None:
    policy = RetryPolicy(max_attempts=2, attempts_by_error=((SinkUnready, 5),))
    reasons = {}
    for error in (SinkUnready("away"), SinkTransient("odd")):
        for attempt in (1, 2, 5):
            outcome = classify(error, attempt=attempt, policy=policy, now=0.0)
            failure = outcome.failure if isinstance(outcome, Dead) else None
            reasons[type(error), attempt] = failure and failure.reason
    exhausted = Reason.ATTEMPTS_EXHAUSTED
    assert [reasons[SinkUnready, each] for each in (1, 2, 5)] == [None, None, exhausted]
    assert [reasons[SinkTransient, each] for each in (1, 2, 5)] == [None, exhausted, exhausted]


@pytest.mark.parametrize("pair", [(SinkUnready, 0), (SinkUnready, True), ("SinkUnready", 2)])
def test_a_wrong_maximum_of_an_error_is_refused(pair: Any) -> None:
    with pytest.raises(InvalidPolicy):
        RetryPolicy(attempts_by_error=(pair,))


def test_the_wait_for_an_unavailable_sink_can_differ_from_that_of_a_retry() -> None:
    policy = PATIENT.but(unavailable_backoff=Linear(2 * S, 600 * S))
    found = classify(away(), attempt=1, policy=policy, now=0.0)
    assert isinstance(found, Defer)
    assert found.after == 2 * S
    asked = classify(away(50), attempt=1, policy=policy, now=0.0)
    assert isinstance(asked, Defer)
    assert asked.after == 50 * S
    again = classify(transient(), attempt=1, policy=policy, now=0.0)
    assert isinstance(again, Retry)
    assert again.after == 10 * S
