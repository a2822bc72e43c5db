"""Sends the follow-up messages of a job before the job is settled.

Dramatiq's middleware sends follow-up messages in its hooks after an attempt: the next message of a
pipeline, ``on_success``, ``on_failure``, the completion callbacks of a group. If the job were
settled first, a crash would lose them.

While the broker refuses a follow-up message, the message is kept and the hooks continue as if it
had been sent, because calling a hook twice could count the job twice in a group's barrier. The
kept messages are sent under their original ids, without blocking a worker thread, before the job
is settled.
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

from ..core.errors import BrokerError, DeferReason, FormrelayError, InvalidJob, describe
from ..core.failure import Failure, Reason
from ..core.outcomes import Dead, Defer, Outcome
from ..middleware import OF_THE_THREAD, Delivery, RetryExhausted
from ..middleware.delivery import Batch
from ..middleware.outcomes import decide
from .contract import BrokerContract
from .envelope import Envelope
from .errors import BrokerRefused, BrokerUnavailable, MessageTooLarge

logger = logging.getLogger("formrelay.brokers")

#: Middleware whose hook after an attempt only sends follow-up messages.
SENDERS = (Callbacks, Pipelines, GroupCallbacks, RetryExhausted)
#: Options of a message or its actor that make ``SENDERS`` send messages.
_OPTIONS = (
    "on_success",
    "on_failure",
    "on_retry_exhausted",
    "pipe_target",
    "group_completion_callbacks",
)
#: Seconds between two log lines about one job.
_LOG_INTERVAL = 30.0

#: Messages that could not be sent by the hooks that run now; None outside of hooks.
_unsent: ContextVar[list[Envelope] | None] = ContextVar("formrelay_unsent", default=None)


class CannotFollow(FormrelayError):
    """A follow-up message of a job can never be sent."""


def may_send(broker: BrokerContract, delivery: Delivery) -> bool:
    """Whether the hooks after an attempt of ``delivery`` may send messages."""
    actor = broker.actors.get(delivery.actor_name)
    given = delivery.options, {} if actor is None else actor.options
    return any(any(map(options.get, _OPTIONS)) for options in given if options)


def keep(envelope: Envelope) -> bool:
    """Keep a message that could not be sent, to send it before the running attempt is settled.

    Returns:
        False outside of the hooks after an attempt: the message is not kept.
    """
    unsent = _unsent.get()
    if unsent is None:
        return False
    unsent.append(envelope)
    return True


def call_sending_hooks(
    broker: BrokerContract,
    delivery: Delivery,
    hooks: Sequence[Middleware],
    ended: dict[str, Any],
) -> None:
    """Call the hooks after an attempt, and keep the messages that cannot be sent yet.

    Sets ``delivery.carry_on`` while a follow-up message is unsent.

    Args:
        hooks: the middleware with the hook ``after_process_message``, in the order of the calls.
        ended: the keyword argument of ``after_process_message``, ``result=`` or ``exception=``.
    """
    follow_up = FollowUp(broker, delivery, hooks, ended)
    if follow_up.carry_on():
        return
    follow_up.leave_thread()
    delivery.carry_on = follow_up.carry_on


class FollowUp:
    """The remaining hooks after one attempt, and the messages that could not be sent."""

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
        self._logged_at = -_LOG_INTERVAL

    def carry_on(self) -> bool:
        """Send the kept messages and call the remaining hooks.

        Returns:
            False if the broker does not accept a message now: call this method again later.
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
                self._log_waiting(error)
                return False
            self._requeue(error)
            return True
        finally:
            _unsent.reset(token)

    def leave_thread(self) -> None:
        """Call the hooks that keep state for this thread, before it runs another message."""
        for middleware in [hook for hook in self._hooks if isinstance(hook, OF_THE_THREAD)]:
            self._hooks.remove(middleware)
            self._call(middleware)

    def _send(self) -> BrokerError | None:
        """Send the kept messages; return the error of the first message that is refused."""
        while self._unsent:
            try:
                self._broker.put_again(self._unsent[0])
            except (BrokerUnavailable, BrokerRefused) as error:
                return error
            del self._unsent[0]
        return None

    def _call(self, middleware: Middleware) -> None:
        try:
            middleware.after_process_message(self._broker, self.delivery, **self._ended)
        except Exception as error:
            if isinstance(middleware, SENDERS) or isinstance(error, BrokerError):
                self._fail(middleware, error)
            else:
                self._broker.log_hook_failure("after_process_message", middleware)

    def _log_waiting(self, error: Exception) -> None:
        now = self._broker.clock.monotonic()
        if now >= self._logged_at + _LOG_INTERVAL:
            self._logged_at = now
            logger.warning(
                "cannot send the follow-up message of a job; the job is not settled yet",
                extra=self._log_fields() | {"error_message": describe(error)},
            )

    def _requeue(self, error: Exception) -> None:
        """Requeue the job, because the worker stops: it runs again and sends its messages then."""
        why = f"follow-up message not sent: {describe(error)}"
        self._decide(Defer(timedelta(0), why, DeferReason.STORE_UNAVAILABLE))
        self.delivery.goes_back = True
        self._unsent.clear()
        while self._hooks:
            middleware = self._hooks.popleft()
            if not isinstance(middleware, SENDERS):
                self._call(middleware)

    def _fail(self, middleware: Middleware, error: Exception) -> None:
        """Fail a job that was done, because its follow-up message cannot be sent."""
        delivery = self.delivery
        why = CannotFollow(f"{type(middleware).__name__} cannot send: {_cause(error)}")
        why.__traceback__ = error.__traceback__
        logger.error(
            "cannot send the follow-up message of a job",
            extra=self._log_fields() | {"error_message": str(why)},
        )
        if self._ended.get("exception") is not None:
            return  # the attempt has failed already, and is settled by that failure
        now = self._broker.clock.time()
        if isinstance(error, InvalidJob | MessageTooLarge | ActorNotFound):
            failure = Failure.of(why, reason=Reason.FOLLOW_UP, attempt=delivery.attempt, now=now)
            self._decide(Dead(failure))
        else:  # for example, Redis is unavailable to a rate limiter: as if the actor had raised
            self._decide(decide(self._broker, delivery, why, now))
        self._ended = {"exception": why}

    def _decide(self, outcome: Outcome) -> None:
        delivery = self.delivery
        delivery.outcome = outcome
        delivery.failed = isinstance(outcome, Dead)
        if isinstance(delivery, Batch):
            delivery.part_outcomes = None

    def _log_fields(self) -> dict[str, Any]:
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
