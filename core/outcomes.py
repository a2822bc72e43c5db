"""What became of a message: a closed set, decided once, by :func:`classify`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from .errors import (
    InvalidJob,
    NotNow,
    SinkBusy,
    SinkError,
    SinkPermanent,
    SinkUnavailable,
    SinkUnready,
)
from .failure import Failure, Reason
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
            return Defer(min(error.after, LONGEST_WAIT), str(error))
        case SinkUnavailable() | SinkBusy() | SinkUnready() if not policy.count_unavailable:
            wait = policy.wait_before(attempt + 1, at_least=error.retry_after)
            return Defer(wait, str(error))
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
