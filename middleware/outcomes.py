"""classify: one middleware decides what became of a message; nobody else does."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, TypeGuard

import dramatiq
from dramatiq.errors import RateLimitExceeded
from dramatiq.middleware import Middleware, Shutdown

from ..core.clock import SYSTEM_CLOCK, Clock
from ..core.errors import FormrelayError, NotNow, PartsFailed, SinkTransient, describe
from ..core.failure import Failure, Reason
from ..core.outcomes import DONE, Dead, Outcome, Retry, classify, undecided
from ..core.retry import LONGEST_WAIT, RetryPolicy
from .delivery import Batch, Delivery
from .policies import policy_of

logger = logging.getLogger("formrelay.workers")

#: Longer than an idle thread of a stopping worker still waits for work (a second by default):
#: it would take the job up again at once, and nobody would interrupt it a second time.
_AFTER_SHUTDOWN = timedelta(seconds=2)


class Expired(FormrelayError):
    """The message was older than its max_age when its turn came."""


class UnknownActor(FormrelayError):
    """No actor of that name is declared in this worker."""


class NoOutcome(FormrelayError):
    """No middleware gave the attempt an outcome."""


class Outcomes(Middleware):
    """Turns the end of an attempt into one of the closed set of outcomes.

    Must be the last of the list: Dramatiq runs ``after_…`` hooks from the last
    to the first, and the others want to know what was decided.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock

    @property
    def actor_options(self) -> set[str]:
        """``policy``: a :class:`~formrelay.core.retry.RetryPolicy`.

        The options of stock Dramatiq's Retries are accepted in their place, so
        that an actor written for it keeps its meaning.
        """
        return {"policy", "max_retries", "min_backoff", "max_backoff", "retry_when", "throws"}

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        if not isinstance(message, Delivery):
            return
        now = self._clock.time()
        if isinstance(message, Batch) and _names_parts(exception, message):
            failures = exception.failures
            message.part_outcomes = [
                decide(broker, message, failures.get(index), now, message.attempt_of(part))
                for index, part in enumerate(message.parts)
            ]
            message.outcome = DONE
        else:
            message.outcome = decide(broker, message, exception, now)
        if isinstance(message.outcome, Dead):
            message.fail()

    def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """A message that another middleware took out before the actor saw it."""
        if not isinstance(message, Delivery) or message.outcome is not None:
            return
        now = self._clock.time()
        message.outcome = rejected(broker, message, now) if message.failed else DONE


def decide(
    broker: dramatiq.Broker,
    delivery: Delivery,
    error: BaseException | None,
    now: float,
    attempt: int | None = None,
) -> Outcome:
    """The outcome of an attempt that ended in ``error`` (None: it worked).

    Never raises: where the decision itself fails, the attempt has failed with both errors.

    Args:
        now: unix time in seconds.
        attempt: of a part of a batch; None: the delivery's own.
    """
    if error is None:
        return DONE
    attempt = attempt or delivery.attempt
    policy: RetryPolicy | None = None
    try:
        error = _translate(error)
        policy = policy_of(broker, delivery.actor_name)
        return classify(error, attempt=attempt, policy=policy, now=now)
    except Exception as fault:
        # A backoff or should_retry of the actor's own raised, say. Without its traceback, in
        # which the job's error would stand with its text.
        _say_undecided(delivery, fault)
        return undecided(error, fault, attempt=attempt, now=now, policy=policy)


def without_outcome(delivery: Delivery, now: float) -> Retry | Dead:
    """The outcome of a delivery that comes to be settled and has none.

    Nobody knows whether its work was done: it counts as a failed attempt.
    """
    fault = NoOutcome()
    _say_undecided(delivery, fault)
    return undecided(delivery.exception, fault, attempt=delivery.attempt, now=now)


def _say_undecided(delivery: Delivery, fault: BaseException) -> None:
    logger.error(
        "the outcome of an attempt could not be decided: it counts as a failed attempt",
        extra={
            "actor": delivery.actor_name,
            "message_id": delivery.message_id,
            "error_message": describe(fault),
        },
    )


def _names_parts(error: BaseException | None, batch: Batch) -> TypeGuard[PartsFailed]:
    """Whether an error says which parts failed; one that names others is of the whole batch."""
    return isinstance(error, PartsFailed) and all(
        0 <= index < len(batch.parts) for index in error.failures
    )


def rejected(broker: dramatiq.Broker, delivery: Delivery, now: float) -> Dead:
    """The outcome of a message that Dramatiq itself, not an actor, gave up."""
    error: FormrelayError = Expired()
    reason = Reason.EXPIRED
    if delivery.actor_name not in broker.actors:
        error = UnknownActor(f"no actor is called {delivery.actor_name!r} in this worker")
        reason = Reason.UNKNOWN_ACTOR
    return Dead(Failure.of(error, reason=reason, attempt=delivery.attempt - 1, now=now))


def _translate(error: BaseException) -> BaseException:
    """Dramatiq's own exceptions in the terms of :mod:`formrelay.core.errors`."""
    match error:
        case Shutdown():
            # The worker is stopping: the job goes back whole, and no attempt is used up.
            return NotNow("the worker was stopping", after=_AFTER_SHUTDOWN)
        case RateLimitExceeded():
            return NotNow("a rate limit was reached", after=timedelta(seconds=1))
        case dramatiq.Retry(delay=int() as delay):
            # Cut first: a timedelta of the largest integers overflows.
            longest = LONGEST_WAIT // timedelta(milliseconds=1)
            asked = SinkTransient(
                "the actor asked to be retried",
                retry_after=timedelta(milliseconds=max(0, min(delay, longest))),
            )
            return asked.with_traceback(error.__traceback__)
        case _:
            return error
