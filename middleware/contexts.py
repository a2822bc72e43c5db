"""Runs each attempt of a worker thread in its own :mod:`contextvars` context."""

from __future__ import annotations

import logging
from contextvars import copy_context
from typing import Any

import dramatiq
from dramatiq.middleware import Middleware

from .delivery import Delivery

logger = logging.getLogger("formrelay.workers")


class Contexts(Middleware):
    """Runs each message, with all of its hooks, in a copy of the worker thread's context.

    So no attempt sees a :class:`~contextvars.ContextVar` that another attempt has set. The copy
    contains what hooks set when the thread was started. (Async actors get their context from
    :mod:`formrelay.brokers.async_runner`.)
    """

    def after_worker_thread_boot(self, broker: dramatiq.Broker, thread: Any) -> None:
        process_message = thread.process_message

        def in_context(message: dramatiq.MessageProxy) -> None:
            try:
                copy_context().run(process_message, message)
            except BaseException as error:
                # An actor's error has become an outcome, so this is an error of Dramatiq's own
                # code. Without this handler, it would end the thread without a log line.
                logger.critical(
                    "unexpected error in a worker thread; the thread continues",
                    extra={"actor": message.actor_name, "message_id": message.message_id},
                    exc_info=error,
                )
                if isinstance(message, Delivery) and not message.was_handed_back:
                    # Raised by a hook before_ack or before_nack: otherwise the message would stay
                    # in flight for as long as this worker lives.
                    consumer = thread.consumers[message.queue_name].consumer
                    (consumer.nack if message.failed else consumer.ack)(message)
                    thread.work_queue.task_done()

        thread.process_message = in_context
