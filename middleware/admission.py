"""Starts an attempt: the last step before the actor is called."""

from __future__ import annotations

import time
from datetime import timedelta

import dramatiq
from dramatiq.middleware import Middleware, SkipMessage

from ..core.errors import BrokerError
from ..core.outcomes import Defer
from .causes import enter_job
from .delivery import Delivery


class Admission(Middleware):
    """Records the start of an attempt, and counts the quarantine run of a suspect on the broker.

    A suspect was in flight when its worker died, so it may have killed that worker. Its run is
    counted before the actor is called, so that the count remains if this process dies too.

    Args:
        running: the deliveries whose actor runs, by their ``id()``; the consumer removes them.
    """

    def __init__(self, running: dict[int, Delivery] | None = None) -> None:
        self._running = {} if running is None else running

    def before_process_message(
        self, broker: dramatiq.Broker, message: dramatiq.MessageProxy
    ) -> None:
        if not isinstance(message, Delivery):
            return
        message.started = time.monotonic()
        enter_job(message)
        self._running[id(message)] = message
        if message.count_quarantine_run is None:
            return
        try:
            message.begin_quarantine_run()
        except BrokerError as error:
            message.outcome = Defer(timedelta(seconds=1), str(error))
            raise SkipMessage(str(error)) from error
