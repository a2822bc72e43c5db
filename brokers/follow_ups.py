"""Sends the messages that follow a job before the job is settled.

Dramatiq's middleware sends them at the end of an attempt: a pipeline's next message,
``on_success``, ``on_failure``, a group's completion callbacks. Were the job done without them,
they would be lost.

A message that cannot be sent while these hooks run is kept, and the hooks go on as if it had been
sent: a hook that is called a second time may count its job a second time (a group's barrier). The
kept messages are sent, under the ids that they have, before the job is settled. No worker thread
waits for that.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

from dramatiq.errors import ActorNotFound
from dramatiq.middleware import Callbacks, GroupCallbacks, Middleware, Pipelines

from ..core.errors import BrokerError, FormrelayError, InvalidJob, describe
from ..core.failure import Failure, Reason
from ..core.outcomes import Dead, Defer, Outcome
from ..middleware import OF_THE_THREAD, Delivery
from ..middleware.delivery import Batch
from ..middleware.outcomes import Outcomes, decide
from .contract import BrokerContract, Envelope
from .errors import BrokerRefused, BrokerUnavailable, MessageTooLarge

logger = logging.getLogger("formrelay.brokers")

#: Middleware whose hook after an attempt does nothing else than send messages.
_SENDERS = (Callbacks, Pipelines, GroupCallbacks)
#: With these options of a message or its actor, that middleware sends others.
_OPTIONS = ("on_success", "on_failure", "pipe_target", "group_completion_callbacks")
#: Seconds between two log lines about one job.
_TELL_AGAIN = 30.0

#: The messages that the running hooks of an attempt's end could not send; None elsewhere.
_unsent: ContextVar[list[Envelope] | None] = ContextVar("formrelay_unsent", default=None)


class CannotFollow(FormrelayError):
    """A message that follows a job can never be sent."""


def may_send(broker: BrokerContract, delivery: Delivery) -> bool:
    """Whether the hooks after an attempt of ``delivery`` may send messages."""
    actor = broker.actors.get(delivery.actor_name)
    given = delivery.options, {} if actor is None else actor.options
    return any(options.get(name) for options in given for name in _OPTIONS)


def keep(envelope: Envelope) -> bool:
    """Keep a message that could not be sent, to be sent before the running attempt is settled.

    Returns:
        Whether that is possible: whether hooks of an attempt's end run in this context.
    """
    unsent = _unsent.get()
    if unsent is None:
        return False
    unsent.append(envelope)
    return True


def end_attempt(
    broker: BrokerContract, delivery: Delivery, hooks: Sequence[Middleware], ended: dict[str, Any]
) -> None:
    """Call the hooks after an attempt; messages that cannot be sent set ``delivery.carry_on``.

    Args:
        hooks: the middleware whose ``after_process_message`` is to be called, in this order.
        ended: how the attempt ended, ``result=`` or ``exception=``.
    """
    follow_up = FollowUp(broker, delivery, hooks, ended)
    if follow_up.carry_on():
        return
    follow_up.leave_thread()
    delivery.carry_on = follow_up.carry_on


class FollowUp:
    """The hooks of one attempt's end, and the messages that they could not send."""

    def __init__(
        self,
        broker: BrokerContract,
        delivery: Delivery,
        hooks: Sequence[Middleware],
        ended: dict[str, Any],
    ) -> None:
        self._broker = broker
        self.delivery = delivery
        self._hooks = deque(hooks)
        self._ended = ended
        self._unsent: list[Envelope] = []
        self._is_decided = False
        self._told_at: float | None = None

    def carry_on(self) -> bool:
        """Send the kept messages and call the remaining hooks.

        Returns:
            False where the broker does not accept a message now: call this method again later.
        """
        token = _unsent.set(self._unsent)
        try:
            error = self._send()
            while error is None and self._hooks:
                self._call(self._hooks.popleft())
                error = self._send() if self._unsent else None
            if error is None:
                return True
            if not self._broker.is_stopping:
                self._say_waiting(error)
                return False
            self._give_back(error)
            return True
        finally:
            _unsent.reset(token)

    def leave_thread(self) -> None:
        """Call the hooks that keep something for the thread, before it does something else."""
        for middleware in [one for one in self._hooks if isinstance(one, OF_THE_THREAD)]:
            self._hooks.remove(middleware)
            self._call(middleware)

    def _send(self) -> BrokerError | None:
        """Send the messages that were kept; the error of the first that is not taken."""
        while self._unsent:
            try:
                self._broker.put_again(self._unsent[0])
            except (BrokerUnavailable, BrokerRefused) as error:
                return error
            del self._unsent[0]
        return None

    def _call(self, middleware: Middleware) -> None:
        """Call one hook."""
        if self._is_decided and isinstance(middleware, Outcomes):
            return
        try:
            middleware.after_process_message(self._broker, self.delivery, **self._ended)
        except Exception as error:
            if isinstance(middleware, _SENDERS) or isinstance(error, BrokerError):
                self._give_up(middleware, error)
            else:
                self._broker.log_hook_failure("after_process_message", middleware)

    def _say_waiting(self, error: Exception) -> None:
        now = self._broker.clock.monotonic()
        if self._told_at is None or now >= self._told_at + _TELL_AGAIN:
            self._told_at = now
            logger.warning(
                "the message that follows a job cannot be sent; the job waits for it",
                extra=self._about() | {"error_message": describe(error)},
            )

    def _give_back(self, error: Exception) -> None:
        """The worker stops: the job goes back to its queue, and sends all that follows it then."""
        self._decide(Defer(timedelta(0), f"what follows it was not sent: {describe(error)}"))
        self.delivery.goes_back = True
        self._unsent.clear()
        while self._hooks:
            middleware = self._hooks.popleft()
            if not isinstance(middleware, _SENDERS):
                self._call(middleware)

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


def _cause(error: Exception) -> str:
    if isinstance(error, ActorNotFound):
        return f"no actor is called {str(error)!r} in this worker"
    return describe(error)
