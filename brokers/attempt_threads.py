"""Runs attempts of ``async`` actors as blocking calls, each in a thread, if something needs that.

Some packages do not work in an event loop. What wraps an actor or ``WorkerThread.process_message``
expects a function that returns when the job has ended, and dramatiq-abort raises its error in the
thread that called its hook. For their sake the code of Dramatiq's worker thread processes the
message, in a thread that waits for the coroutine of the actor. See docs/adr/0013.
"""

from __future__ import annotations

import logging
import threading
from inspect import iscoroutinefunction
from operator import is_
from types import FunctionType
from typing import Any

import dramatiq
import dramatiq.worker
from dramatiq.threading import Interrupt, raise_thread_exception

from ..middleware.attempts import WORKER_LOGGER
from .async_attempts import AsyncAttempt
from .contract import BrokerContract
from .event_loop import AsyncFunction

logger = logging.getLogger("formrelay.brokers")

#: Maximum number of attempts that run in threads at a time. The others wait for a thread.
MAX_THREADS = 500
#: Packages whose middleware works by thread.
_BY_THREAD = ("dramatiq_abort",)


class AttemptThreads:
    """Decides which attempts run in threads, and processes them."""

    def __init__(self, broker: BrokerContract) -> None:
        self._broker = broker
        #: For each actor: the objects that the decision depends on, and the decision.
        self._decided: dict[str, tuple[tuple[Any, ...], bool]] = {}

    def are_needed(self, actor: dramatiq.Actor[Any, Any]) -> bool:
        """Whether the attempts of an actor run in threads."""
        process_message = dramatiq.worker._WorkerThread.process_message
        version = self._broker.middleware_version
        found = (process_message, dramatiq.Actor.__call__, actor.fn, version)
        decided = self._decided.get(actor.actor_name)
        if decided is not None and all(map(is_, decided[0], found)):
            return decided[1]
        reason = self._reason(actor)
        if reason is not None:
            logger.info(
                "the jobs of an async actor run in threads",
                extra={"actor": actor.actor_name, "reason": reason},
            )
        self._decided[actor.actor_name] = (found, reason is not None)
        return reason is not None

    def _reason(self, actor: dramatiq.Actor[Any, Any]) -> str | None:
        if _is_replaced(dramatiq.worker._WorkerThread.process_message, "dramatiq.worker"):
            return "WorkerThread.process_message is wrapped"
        if _is_replaced(dramatiq.Actor.__call__, "dramatiq.actor"):
            return "Actor.__call__ is wrapped"
        if not (isinstance(actor.fn, AsyncFunction) or iscoroutinefunction(actor.fn)):
            return "the function of the actor is wrapped"
        for middleware in self._broker.middleware:
            kind = type(middleware)
            if kind.__module__.partition(".")[0] in _BY_THREAD or getattr(kind, "by_thread", False):
                return f"the middleware {kind.__name__} works by thread"
        return None

    def process(self, attempt: AsyncAttempt) -> None:
        """Call the hooks and the actor of an attempt in this thread, which waits for its end."""
        stand_in = _WorkerThread(self._broker)
        attempt.thread = threading.get_ident()
        try:
            process_message: Any = dramatiq.worker._WorkerThread.process_message
            process_message(stand_in, attempt.delivery)
        except Interrupt:
            if attempt.delivery.outcome is None:
                raise  # otherwise it came too late, after the hooks that decide the outcome
        finally:
            attempt.thread = None
        if stand_in.error is not None:  # which the worker thread's code has cleared
            attempt.delivery.stuff_exception(stand_in.error)

    @staticmethod
    def interrupt(attempt: AsyncAttempt, error: type[BaseException]) -> None:
        """Raise an error in the thread of an attempt; does nothing if it has ended."""
        if attempt.thread is not None:
            raise_thread_exception(attempt.thread, error)  # type: ignore[no-untyped-call]


class _WorkerThread:
    """Stands in for Dramatiq's worker thread, its consumers and its work queue.

    Attributes:
        error: what the actor or a hook raised.
    """

    def __init__(self, broker: BrokerContract) -> None:
        self.broker = broker
        self.logger = logging.getLogger(WORKER_LOGGER)
        self.consumers = self.work_queue = self
        self.error: BaseException | None = None

    def __getitem__(self, queue_name: str) -> _WorkerThread:
        return self

    def post_process_message(self, message: dramatiq.MessageProxy) -> None:
        """Keep the error. The runner settles the message."""
        self.error = message._exception

    def task_done(self) -> None:
        """Do nothing: there is no work queue."""


def _is_replaced(function: Any, module: str) -> bool:
    """Whether a function is another than the function that ``module`` defines."""
    # The type is checked because a proxy of wrapt has the attributes of the function it wraps.
    return type(function) is not FunctionType or function.__globals__["__name__"] != module
