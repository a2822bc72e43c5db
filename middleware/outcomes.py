"""Decides the outcome of each attempt.

Middleware that skips a message before its actor runs sets the outcome itself, usually Defer.
"""

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

#: Longer than an idle thread of a stopping worker waits for messages (1 s by default). Otherwise
#: the thread could take the job again, and nobody would interrupt it a second time.
_AFTER_SHUTDOWN = timedelta(seconds=2)


class Expired(FormrelayError):
    """The message was older than its max_age when it was received."""


class UnknownActor(FormrelayError):
    """The message names an actor that this worker does not have."""


class NoOutcome(FormrelayError):
    """No middleware gave the attempt an outcome."""


class Outcomes(Middleware):
    """Sets the outcome of each delivery.

    Must be last in the list: Dramatiq runs ``after_…`` hooks from last to first, and the hooks of
    other middleware read the outcome.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock

    @property
    def actor_options(self) -> set[str]:
        """``policy``: a :class:`~formrelay.core.retry.RetryPolicy`.

        Without it, the options of stock Dramatiq's Retries middleware are used.
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
            failures, stored = exception.failures, message.attempt if message.was_stored else None
            message.part_outcomes = [
                decide(broker, message, failures.get(index), now, stored or part.attempt)
                for index, part in enumerate(message.parts)
            ]
            message.outcome = DONE
        else:
            message.outcome = decide(broker, message, exception, now)
        if isinstance(message.outcome, Dead):
            message.fail()

    def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """Set the outcome of a message that another middleware skipped."""
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
    """Decide the outcome of an attempt.

    Never raises: if the retry policy raises, the attempt counts as failed, with both errors.

    Args:
        error: what the attempt raised; None for success.
        now: unix time in seconds.
        attempt: the attempt number of a batch part; None for the delivery's own.
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
        # For example, a custom backoff or should_retry raised. Logged without a traceback, which
        # would contain the text of the job's error.
        _log_undecided(delivery, fault)
        return undecided(error, fault, attempt=attempt, now=now, policy=policy)


def without_outcome(delivery: Delivery, now: float) -> Retry | Dead:
    """Decide the outcome of a delivery that no middleware gave one: a failed attempt.

    Whether its work was done is unknown.
    """
    fault = NoOutcome()
    _log_undecided(delivery, fault)
    return undecided(delivery.exception, fault, attempt=delivery.attempt, now=now)


def _log_undecided(delivery: Delivery, fault: BaseException) -> None:
    logger.error(
        "the outcome of an attempt could not be decided: it counts as a failed attempt",
        extra={
            "actor": delivery.actor_name,
            "message_id": delivery.message_id,
            "error_message": describe(fault),
        },
    )


def _names_parts(error: BaseException | None, batch: Batch) -> TypeGuard[PartsFailed]:
    """Whether an error names failed parts of this batch; otherwise the whole batch failed."""
    return isinstance(error, PartsFailed) and all(
        0 <= index < len(batch.parts) for index in error.failures
    )


def rejected(broker: dramatiq.Broker, delivery: Delivery, now: float) -> Dead:
    """Decide the outcome of a message that Dramatiq rejected before its actor ran."""
    error: FormrelayError = Expired()
    reason = Reason.EXPIRED
    if delivery.actor_name not in broker.actors:
        error = UnknownActor(f"no actor is called {delivery.actor_name!r} in this worker")
        reason = Reason.UNKNOWN_ACTOR
    return Dead(Failure.of(error, reason=reason, attempt=delivery.attempt - 1, now=now))


def _translate(error: BaseException) -> BaseException:
    """Translate Dramatiq's exceptions to errors of :mod:`formrelay.core.errors`."""
    match error:
        case Shutdown():
            # The worker is stopping: defer the job without using an attempt.
            return NotNow("the worker was stopping", after=_AFTER_SHUTDOWN)
        case RateLimitExceeded():
            return NotNow("a rate limit was reached", after=timedelta(seconds=1))
        case dramatiq.Retry(delay=int() as delay):
            # Limited first: a huge integer overflows a timedelta.
            longest = LONGEST_WAIT // timedelta(milliseconds=1)
            asked = SinkTransient(
                "the actor asked to be retried",
                retry_after=timedelta(milliseconds=max(0, min(delay, longest))),
            )
            return asked.with_traceback(error.__traceback__)
        case _:
            return error
