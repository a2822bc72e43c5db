"""Decides the outcome of each attempt.

Middleware that skips a message before its actor runs sets the outcome itself, usually Defer.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, TypeGuard

import dramatiq
from dramatiq.middleware import AgeLimit, Retries, Shutdown

from ..core.clock import SYSTEM_CLOCK, Clock, to_millis
from ..core.errors import DeferReason, FormrelayError, InvalidPolicy, PartsFailed
from ..core.failure import Failure, Reason
from ..core.outcomes import DONE, Dead, Defer, Done, Outcome, Retry, classify, undecided
from ..core.retry import RetryPolicy
from ..core.tracebacks import traceback_text
from .delivery import REQUEUED, RETRIES, TRACEBACK, Batch, Delivery
from .disclosures import OPTION, disclosure_of
from .policies import DEFAULTS, make_policy, policy_of

logger = logging.getLogger("formrelay.workers")

#: Longer than an idle thread of a stopping worker waits for messages (1 s by default). Otherwise
#: the thread could take the job again, and nobody would interrupt it a second time.
_AFTER_SHUTDOWN = timedelta(seconds=2)
#: Maximum delay of ``dramatiq.Retry``; brokers keep no message longer.
_LONGEST_DELAY = timedelta(days=30)


class Expired(FormrelayError):
    """The message was older than its max_age when it was received."""


class UnknownActor(FormrelayError):
    """The message names an actor that this worker does not have."""


class Rejected(FormrelayError):
    """A middleware of the program marked the message as failed."""


class NoOutcome(FormrelayError):
    """No middleware gave the attempt an outcome."""


class Outcomes(Retries):
    """Sets the outcome of each delivery, instead of Dramatiq's Retries middleware.

    It is a Retries, so that ``add_middleware(…, before=Retries)`` finds it. Its hook after an
    attempt is called before those of all other middleware, which read the outcome.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(**DEFAULTS)
        self._clock = clock
        self._without_policy: list[dramatiq.Actor[Any, Any]] = []

    @property
    def actor_options(self) -> set[str]:
        """``policy``: a :class:`~formrelay.core.retry.RetryPolicy`.

        Without it, the options of stock Dramatiq's Retries middleware are used. ``log_exceptions``
        is ``message``, ``places`` or ``none``, instead of LOG_EXCEPTIONS.
        """
        of_retries = {"max_retries", "min_backoff", "max_backoff", "retry_when", "throws"}
        return {"policy", OPTION} | of_retries

    def declare(self, actor: dramatiq.Actor[Any, Any]) -> None:
        """Give an actor its retry policy.

        Raises:
            InvalidPolicy: an option is of the wrong type or out of range.
        """
        if actor.options.get("policy") is None:
            self._without_policy.append(actor)
        actor.options["policy"] = make_policy(actor, actor.options.get("policy"), self)

    def adopt(self, retries: Retries) -> None:
        """Use the values of Dramatiq's Retries for actors without values of their own.

        Raises:
            InvalidPolicy: a value is wrong; nothing has changed then.
        """
        policies = [make_policy(actor, None, retries) for actor in self._without_policy]
        self.max_retries, self.retry_when = retries.max_retries, retries.retry_when
        self.min_backoff, self.max_backoff = retries.min_backoff, retries.max_backoff
        for actor, policy in zip(self._without_policy, policies, strict=True):
            actor.options["policy"] = policy

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
        if exception is None:
            message.outcome = DONE
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
        # Stock Dramatiq counts no failure for an error in the actor's throws.
        actor = broker.actors.get(message.actor_name)
        throws = () if actor is None else actor.options["policy"].throws
        if not isinstance(exception, throws) and not is_deferred(message):
            _count_failure(message, exception, now)

    def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """Set the outcome of a message that another middleware skipped."""
        if not isinstance(message, Delivery) or message.outcome is not None:
            return
        now = self._clock.time()
        message.outcome = rejected(broker, message, now) if message.failed else DONE


def is_deferred(delivery: Delivery) -> bool:
    """Whether an attempt ended without success and without failure."""
    parts = delivery.part_outcomes if isinstance(delivery, Batch) else None
    if parts is None:
        return isinstance(delivery.outcome, Defer)
    kinds = {type(outcome) for outcome in parts}
    return Defer in kinds and kinds <= {Defer, Done}


def _count_failure(delivery: Delivery, error: BaseException, now: float) -> None:
    """Set the options by which stock Dramatiq tells hooks and callbacks of a failed attempt."""
    text = traceback_text(error, limit=30)
    counted = {RETRIES: delivery.attempt, TRACEBACK: text, REQUEUED: to_millis(now)}
    delivery.options.update(counted)


def decide(
    broker: dramatiq.Broker,
    delivery: Delivery,
    error: BaseException | None,
    now: float,
    attempt: int | None = None,
) -> Outcome:
    """Decide the outcome of an attempt, or of a part of a batch.

    Never raises: if the retry policy raises, the attempt counts as failed, with both errors.

    Args:
        error: raised by the attempt or for the part; None for success.
        now: unix time in seconds.
        attempt: the attempt number of a batch part; None for the delivery's own.
    """
    if error is None:
        return DONE
    attempt = attempt or delivery.attempt
    disclosure = disclosure_of(broker, delivery.actor_name)
    policy: RetryPolicy | None = None
    try:
        policy = policy_of(broker, delivery.actor_name, delivery.options)
        if isinstance(error, Shutdown) and not isinstance(error, policy.throws):
            # The worker is stopping: defer the job without using an attempt.
            return Defer(_AFTER_SHUTDOWN, "the worker was stopping", DeferReason.STOPPING)
        asked = _asked_delay(error)
        return classify(
            error, attempt=attempt, policy=policy, now=now, asked=asked, disclosure=disclosure
        )
    except Exception as fault:
        # For example, a custom backoff or should_retry raised. Logged without a traceback, which
        # would contain the text of the job's error.
        _log_undecided(delivery, disclosure.brief(fault))
        return undecided(
            error, fault, attempt=attempt, now=now, policy=policy, disclosure=disclosure
        )


def without_outcome(delivery: Delivery, now: float) -> Retry | Dead:
    """Decide the outcome of a delivery that no middleware gave one: a failed attempt.

    Whether its work was done is unknown.
    """
    fault = NoOutcome()
    _log_undecided(delivery, str(fault))
    return undecided(delivery.exception, fault, attempt=delivery.attempt, now=now)


def _log_undecided(delivery: Delivery, fault: str) -> None:
    logger.error(
        "the outcome of an attempt could not be decided: it counts as a failed attempt",
        extra={
            "actor": delivery.actor_name,
            "message_id": delivery.message_id,
            "error_message": fault,
        },
    )


def _names_parts(error: BaseException | None, batch: Batch) -> TypeGuard[PartsFailed]:
    """Whether an error names failed parts of this batch; otherwise the whole batch failed."""
    return isinstance(error, PartsFailed) and all(
        0 <= index < len(batch.parts) for index in error.failures
    )


def rejected(broker: dramatiq.Broker, delivery: Delivery, now: float) -> Dead:
    """Decide the outcome of a message that another middleware or Dramatiq marked as failed."""
    if delivery.actor_name not in broker.actors:
        error: FormrelayError = UnknownActor(
            f"no actor is called {delivery.actor_name!r} in this worker"
        )
        reason = Reason.UNKNOWN_ACTOR
    elif delivery.started is None and _is_too_old(broker, delivery, now):
        error, reason = Expired(), Reason.EXPIRED
    else:
        error, reason = Rejected(), Reason.MIDDLEWARE
    attempt = delivery.attempt if delivery.started is not None else delivery.attempt - 1
    return Dead(Failure.of(error, reason=reason, attempt=attempt, now=now))


def _is_too_old(broker: dramatiq.Broker, delivery: Delivery, now: float) -> bool:
    limits = [one.max_age for one in broker.middleware if isinstance(one, AgeLimit)]
    actor = broker.actors[delivery.actor_name]
    limits += [delivery.options.get("max_age"), actor.options.get("max_age")]
    age = to_millis(now) - delivery.message.message_timestamp
    return any(isinstance(limit, int | float) and limit and age >= limit for limit in limits)


def _asked_delay(error: BaseException) -> timedelta | None:
    """The delay of ``dramatiq.Retry``; None for other errors and for a Retry without delay.

    Raises:
        InvalidPolicy: it is no number of milliseconds, or too long.
    """
    if not isinstance(error, dramatiq.Retry) or error.delay is None:
        return None
    delay, most = error.delay, _LONGEST_DELAY // timedelta(milliseconds=1)
    if isinstance(delay, bool) or not isinstance(delay, int | float) or not delay <= most:
        raise InvalidPolicy(
            f"expected the delay of dramatiq.Retry to be milliseconds, at most {most}, "
            f"got {delay!r}"
        )
    return timedelta(milliseconds=max(0, delay))
