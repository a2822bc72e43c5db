"""The outcome of a delivery, decided by :func:`classify`: done, retry, dead or defer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from .disclosure import DEFAULT, Disclosure
from .errors import (
    DeferReason,
    InvalidJob,
    NotNow,
    SinkBusy,
    SinkError,
    SinkPermanent,
    SinkUnavailable,
    SinkUnready,
)
from .failure import Failure, Reason, frames
from .retry import LONGEST_WAIT, RetryPolicy


@dataclass(frozen=True, slots=True)
class Done:
    """The work is done; the message is removed."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed; the message is scheduled again in ``after``."""

    after: timedelta
    failure: Failure


@dataclass(frozen=True, slots=True)
class Dead:
    """The message is dead-lettered together with its failure."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Defer:
    """The message is scheduled again in ``after``; no attempt is counted."""

    after: timedelta
    why: str
    reason: DeferReason = DeferReason.ACTOR


Outcome = Done | Retry | Dead | Defer

DONE = Done()

#: Maximum number of attempts of a job whose policy raises; the default of stock Dramatiq.
_MAX_UNDECIDED = 21


def classify(
    error: BaseException | None,
    *,
    attempt: int,
    policy: RetryPolicy,
    now: float,
    asked: timedelta | None = None,
    disclosure: Disclosure = DEFAULT,
) -> Outcome:
    """Decide the outcome of an attempt.

    Args:
        error: what the attempt raised; None for success.
        attempt: the number of this attempt, from 1.
        policy: the actor's retry policy.
        now: unix time in seconds.
        asked: the wait that the actor asked for, instead of the policy's.
        disclosure: what may be written about errors of the actor.
    """

    def failure(reason: Reason) -> Failure:
        assert error is not None
        return Failure.of(error, reason=reason, attempt=attempt, now=now, disclosure=disclosure)

    if error is None:
        return DONE
    if isinstance(error, policy.throws):
        return Dead(failure(Reason.NOT_RETRIED))
    match error:
        case NotNow():
            return Defer(min(error.after, LONGEST_WAIT), disclosure.text(error), error.reason)
        case SinkUnavailable() | SinkBusy() | SinkUnready() if not policy.count_unavailable:
            if policy.unavailable_backoff is not None:
                policy = policy.but(backoff=policy.unavailable_backoff)
            wait = policy.wait_before(attempt + 1, at_least=error.retry_after)
            return Defer(wait, disclosure.text(error), _reason(error))
        case InvalidJob():
            return Dead(failure(Reason.INVALID))
        case SinkPermanent():
            return Dead(failure(Reason.PERMANENT))
    if not policy.allows_another(attempt, error):
        is_last = attempt >= policy.attempts_for(error)
        return Dead(failure(Reason.ATTEMPTS_EXHAUSTED if is_last else Reason.NOT_RETRIED))
    if asked is None:
        at_least = error.retry_after if isinstance(error, SinkError) else None
        asked = policy.wait_before(attempt + 1, at_least=at_least)
    return Retry(asked, failure(Reason.ATTEMPTS_EXHAUSTED))


def _reason(error: SinkUnavailable | SinkBusy | SinkUnready) -> DeferReason:
    match error:
        case SinkBusy():
            return DeferReason.SINK_BUSY
        case SinkUnready():
            return DeferReason.SINK_UNREADY
        case _:
            return DeferReason.SINK_UNAVAILABLE


def undecided(
    error: BaseException | None,
    fault: BaseException,
    *,
    attempt: int,
    now: float,
    policy: RetryPolicy | None = None,
    disclosure: Disclosure = DEFAULT,
) -> Retry | Dead:
    """Make the outcome of an attempt for which :func:`classify` raised: a failed attempt.

    Args:
        error: what the attempt raised; None if that is unknown.
        fault: what the decision raised. The failure record names both.
        attempt: the number of this attempt, from 1.
        now: unix time in seconds.
        policy: the actor's retry policy; None for the default policy.
        disclosure: what may be written about errors of the actor.
    """
    policy = policy or RetryPolicy()
    reason = Reason.UNDECIDED
    failure = Failure.of(
        error or fault, reason=reason, attempt=attempt, now=now, disclosure=disclosure
    )
    where = "".join(f" in {frame}" for frame in frames(fault)[-1:] if disclosure.has_places)
    why = f"the outcome could not be decided: {disclosure.brief(fault)}{where}"
    failure = replace(failure, message=f"{failure.message}; {why}" if error else why)
    if attempt >= min(policy.max_attempts, _MAX_UNDECIDED):
        return Dead(failure)
    try:
        wait = policy.wait_before(attempt + 1)
    except Exception:
        wait = RetryPolicy().wait_before(attempt + 1)
    return Retry(wait, failure)
