"""What became of a message: a closed set, decided once, by :func:`classify`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from .errors import (
    InvalidJob,
    NotNow,
    SinkBusy,
    SinkError,
    SinkPermanent,
    SinkUnavailable,
    SinkUnready,
    describe,
)
from .failure import Failure, Reason, frames
from .retry import LONGEST_WAIT, RetryPolicy


@dataclass(frozen=True, slots=True)
class Done:
    """The work is done; the message goes away."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed; the message is scheduled again after ``after``."""

    after: timedelta
    failure: Failure


@dataclass(frozen=True, slots=True)
class Dead:
    """The message goes to the dead letters with its failure."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Defer:
    """The message was not tried and comes back after ``after``; no attempt is counted."""

    after: timedelta
    why: str


Outcome = Done | Retry | Dead | Defer

DONE = Done()

#: Maximum number of attempts of a job whose own policy cannot decide; stock Dramatiq's default.
_MOST_UNDECIDED = 21


def classify(
    error: BaseException | None, *, attempt: int, policy: RetryPolicy, now: float
) -> Outcome:
    """The outcome of ``attempt``, which ended in ``error`` (None: it worked).

    Args:
        attempt: the number of this attempt, from 1.
        policy: the actor's retry policy.
        now: unix time in seconds.
    """
    match error:
        case None:
            return DONE
        case NotNow():
            return Defer(min(error.after, LONGEST_WAIT), describe(error))
        case SinkUnavailable() | SinkBusy() | SinkUnready() if not policy.count_unavailable:
            wait = policy.wait_before(attempt + 1, at_least=error.retry_after)
            return Defer(wait, describe(error))
        case InvalidJob():
            return Dead(Failure.of(error, reason=Reason.INVALID, attempt=attempt, now=now))
        case SinkPermanent():
            return Dead(Failure.of(error, reason=Reason.PERMANENT, attempt=attempt, now=now))
    if not policy.allows_another(attempt, error):
        return Dead(Failure.of(error, reason=Reason.ATTEMPTS_EXHAUSTED, attempt=attempt, now=now))
    asked = error.retry_after if isinstance(error, SinkError) else None
    return Retry(
        policy.wait_before(attempt + 1, at_least=asked),
        Failure.of(error, reason=Reason.ATTEMPTS_EXHAUSTED, attempt=attempt, now=now),
    )


def undecided(
    error: BaseException | None,
    fault: BaseException,
    *,
    attempt: int,
    now: float,
    policy: RetryPolicy | None = None,
) -> Retry | Dead:
    """The outcome of an attempt whose outcome could not be decided: a failed attempt.

    Args:
        error: what ended the attempt; None where that is not known.
        fault: what the decision failed with. The failure record names both.
        policy: the actor's retry policy, as far as it works; None: the default one.
    """
    policy = policy or RetryPolicy()
    failure = Failure.of(error or fault, reason=Reason.UNDECIDED, attempt=attempt, now=now)
    where = "".join(f" in {frame}" for frame in frames(fault)[-1:])
    why = f"the outcome could not be decided: {describe(fault)}{where}"
    failure = replace(failure, message=f"{failure.message}; {why}" if error else why)
    if attempt >= min(policy.max_attempts, _MOST_UNDECIDED):
        return Dead(failure)
    try:
        wait = policy.wait_before(attempt + 1)
    except Exception:
        wait = RetryPolicy().wait_before(attempt + 1)
    return Retry(wait, failure)
