"""A context of its own, in the sense of :mod:`contextvars`, for each attempt of a worker thread."""

from __future__ import annotations

import logging
from contextvars import copy_context
from typing import Any

import dramatiq
from dramatiq.middleware import Middleware

logger = logging.getLogger("formrelay.workers")


class Contexts(Middleware):
    """Runs each message of a worker thread, all of its hooks included, in a copy of the thread's
    context, so that no attempt sees a :class:`~contextvars.ContextVar` that another one has set.

    A copy sees what a hook has set when the thread was started. (``async`` actors run in
    :mod:`formrelay.brokers.async_runner`, which gives each attempt its context.)
    """

    def after_worker_thread_boot(self, broker: dramatiq.Broker, thread: Any) -> None:
        process_message = thread.process_message

        def in_context(message: dramatiq.MessageProxy) -> None:
            try:
                copy_context().run(process_message, message)
            except BaseException as error:
                # Not the actor's, which has become an outcome: Dramatiq's own code for a message
                # failed. It would end the thread, without a line and without a successor.
                logger.critical(
                    "a worker thread failed on a message and goes on",
                    extra={"actor": message.actor_name, "message_id": message.message_id},
                    exc_info=error,
                )

        thread.process_message = in_context
