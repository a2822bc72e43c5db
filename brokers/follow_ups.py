"""Messages that follow a job: it is not settled before the broker has them.

Dramatiq's middleware sends them at the end of an attempt: a pipeline's next message,
``on_success``, ``on_failure``, a group's completion callbacks. Were the job done without them,
they would be lost.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from threading import Event
from typing import TYPE_CHECKING, Any

from dramatiq.errors import ActorNotFound
from dramatiq.middleware import Callbacks, GroupCallbacks, Middleware, Pipelines

from ..core.errors import BrokerError, FormrelayError, InvalidJob, describe
from ..core.failure import Failure, Reason
from ..core.outcomes import Dead, Defer, Outcome
from ..core.retry import Exponential, RetryPolicy
from ..middleware import OF_THE_THREAD, Delivery
from ..middleware.delivery import Batch
from ..middleware.outcomes import Outcomes, decide
from .errors import BrokerRefused, BrokerUnavailable, MessageTooLarge

if TYPE_CHECKING:
    from .base import RelayBroker

logger = logging.getLogger("formrelay.brokers")

#: Middleware whose hook after an attempt does nothing else than send messages.
_SENDERS = (Callbacks, Pipelines, GroupCallbacks)
#: With these options of a message or its actor, that middleware sends others.
_OPTIONS = ("on_success", "on_failure", "pipe_target", "group_completion_callbacks")
#: How soon a worker thread tries again while the broker is away.
_RETRY = RetryPolicy(
    backoff=Exponential(base=timedelta(milliseconds=100), cap=timedelta(seconds=2)), jitter=0.5
)
#: Seconds between two looks of a waiting worker thread at whether its worker stops.
_LOOK = 0.1
#: After a worker's stop the job is for other workers at once.
_AFTER_STOP = timedelta(seconds=2)
#: Seconds between two log lines about one job.
_TELL_AGAIN = 30.0


class CannotFollow(FormrelayError):
    """What follows a job cannot be sent."""


def may_send(broker: RelayBroker, delivery: Delivery) -> bool:
    """Whether the hooks after an attempt of ``delivery`` may send messages."""
    actor = broker.actors.get(delivery.actor_name)
    given = delivery.options, {} if actor is None else actor.options
    return any(options.get(name) for options in given for name in _OPTIONS)


def must_follow(middleware: Middleware, error: Exception) -> bool:
    """Whether ``error`` of a hook means that a message which follows the job was not sent."""
    return isinstance(middleware, _SENDERS) or isinstance(error, BrokerError)


class FollowUp:
    """The hooks of one attempt's end, from the first that could not send its message.

    Args:
        hooks: the middleware whose ``after_process_message`` is to be called, in this order.
        ended: how the attempt ended, ``result=`` or ``exception=``.
        error: what the first hook has raised.
    """

    def __init__(
        self,
        broker: RelayBroker,
        delivery: Delivery,
        hooks: Sequence[Middleware],
        ended: dict[str, Any],
        error: Exception,
    ) -> None:
        self._broker = broker
        self.delivery = delivery
        self._hooks = deque(hooks)
        self._ended = ended
        self._error: Exception | None = error
        self._is_decided = False
        self._told_at: float | None = None

    def finish(self) -> None:
        """Call the hooks in this thread, which waits while the broker is away."""
        # What may interrupt the thread is for the time of the actor, which is over.
        for middleware in [one for one in self._hooks if isinstance(one, OF_THE_THREAD)]:
            self._call(middleware)
            self._hooks.remove(middleware)
        failures = 0
        while not self.carry_on():
            failures += 1
            left = _RETRY.wait_before(failures + 1).total_seconds()
            while left > 0 and not self._broker.is_stopping:
                Event().wait(min(left, _LOOK))
                left -= _LOOK

    def carry_on(self) -> bool:
        """Call the hooks; False: one of them cannot send now, and this is to be called again."""
        while self._hooks:
            middleware = self._hooks.popleft()
            error, self._error = self._error, None
            error = error or self._call(middleware)
            if isinstance(error, BrokerUnavailable | BrokerRefused):
                if not self._broker.is_stopping:
                    self._say_waiting(error)
                    self._hooks.appendleft(middleware)
                    return False
                self._give_back(error)
            elif error is not None:
                self._give_up(middleware, error)
        return True

    def _call(self, middleware: Middleware) -> Exception | None:
        """Call one hook; the error that tells that its message was not sent."""
        if self._is_decided and isinstance(middleware, Outcomes):
            return None
        try:
            middleware.after_process_message(self._broker, self.delivery, **self._ended)
        except Exception as error:
            if must_follow(middleware, error):
                return error
            self._broker.log_hook_failure("after_process_message", middleware)
        return None

    def _say_waiting(self, error: Exception) -> None:
        now = self._broker.clock.monotonic()
        if self._told_at is None or now >= self._told_at + _TELL_AGAIN:
            self._told_at = now
            logger.warning(
                "the message that follows a job cannot be sent; the job waits for it",
                extra=self._about() | {"error_message": describe(error)},
            )

    def _give_back(self, error: Exception) -> None:
        """The worker stops: the job comes again, and then sends all that follows it."""
        self._decide(Defer(_AFTER_STOP, f"what follows it was not sent: {describe(error)}"))
        self._hooks = deque(one for one in self._hooks if not isinstance(one, _SENDERS))

    def _give_up(self, middleware: Middleware, error: Exception) -> None:
        """Fail a job that was done: its message will never be sent."""
        delivery = self.delivery
        why = CannotFollow(f"{type(middleware).__name__} cannot send: {_cause(error)}")
        why.__traceback__ = error.__traceback__
        logger.error(
            "the message that follows a job cannot be sent",
            extra=self._about() | {"error_message": str(why)},
        )
        if self._ended.get("exception") is not None:
            return  # it has failed already, and is tried again or dead for that
        now = self._broker.clock.time()
        if isinstance(error, InvalidJob | MessageTooLarge | ActorNotFound):
            failure = Failure.of(why, reason=Reason.FOLLOW_UP, attempt=delivery.attempt, now=now)
            self._decide(Dead(failure))
        else:  # a limiter's store is away, say: the attempt has failed in its last step
            self._decide(decide(self._broker, delivery, why, now))
        self._ended = {"exception": why}

    def _decide(self, outcome: Outcome) -> None:
        delivery = self.delivery
        delivery.outcome = outcome
        delivery.failed = isinstance(outcome, Dead)
        if isinstance(delivery, Batch):
            delivery.part_outcomes = None
        self._is_decided = True

    def _about(self) -> dict[str, Any]:
        delivery = self.delivery
        return {
            "actor": delivery.actor_name,
            "queue": delivery.queue_name,
            "message_id": delivery.message_id,
        }


def follow_up(hooks: FollowUp) -> None:
    """Call the hooks until the broker has what they send, in a thread that may wait."""
    if hooks.delivery.may_wait:  # without a thread: whoever runs it calls them
        hooks.delivery.carry_on = hooks.carry_on
    else:
        hooks.finish()


def _cause(error: Exception) -> str:
    if isinstance(error, ActorNotFound):
        return f"no actor is called {str(error)!r} in this worker"
    return describe(error)
