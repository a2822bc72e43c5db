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
from ..core.outcomes import DONE, Dead, Outcome, classify
from ..core.retry import LONGEST_WAIT
from .delivery import Batch, Delivery
from .policies import policy_of

logger = logging.getLogger("formrelay.workers")

#: Longer than an idle thread of a stopping worker still waits for work (a second by default):
#: it would take the job up again at once, and nobody would interrupt it a second time.
_AFTER_SHUTDOWN = timedelta(seconds=2)

#: Attempts for a message whose actor's own decision failed: stock Dramatiq's default.
_SANE_ATTEMPTS = 21


class Expired(FormrelayError):
    """The message was older than its max_age when its turn came."""


class UnknownActor(FormrelayError):
    """No actor of that name is declared in this worker."""


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
        policy = policy_of(broker, message.actor_name)
        now = self._clock.time()

        def decide(error: BaseException | None, attempt: int) -> Outcome:
            error = _translate(error)
            try:
                return classify(error, attempt=attempt, policy=policy, now=now)
            except Exception as fault:
                # An actor's own should_retry or retry_when raised. Not with its traceback, in
                # which the actor's error would stand with its text.
                logger.error(
                    "should_retry failed",
                    extra={"actor": message.actor_name, "error_message": describe(fault)},
                )
                most = min(policy.max_attempts, _SANE_ATTEMPTS)
                cautious = policy.but(should_retry=None, max_attempts=most)
                return classify(error, attempt=attempt, policy=cautious, now=now)

        if isinstance(message, Batch) and _names_parts(exception, message):
            failures = exception.failures
            message.part_outcomes = [
                decide(failures.get(index), message.attempt_of(part))
                for index, part in enumerate(message.parts)
            ]
            message.outcome = DONE
        else:
            message.outcome = decide(exception, message.attempt)
        if isinstance(message.outcome, Dead):
            message.fail()

    def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """A message that another middleware took out before the actor saw it."""
        if not isinstance(message, Delivery) or message.outcome is not None:
            return
        now = self._clock.time()
        message.outcome = rejected(broker, message, now) if message.failed else DONE


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


def _translate(error: BaseException | None) -> BaseException | None:
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
