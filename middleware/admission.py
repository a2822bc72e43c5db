"""Starts an attempt: the last step before the actor is called."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import dramatiq
from dramatiq.middleware import Middleware, SkipMessage

from ..core.errors import BrokerError, DeferReason
from ..core.outcomes import Defer
from .causes import enter_job
from .delivery import Delivery
from .disclosures import disclosure_of


class Admission(Middleware):
    """Records the start of an attempt, and counts the quarantine run of a suspect on the broker.

    A suspect was in flight when its worker died, so it may have killed that worker. Its run is
    counted before the actor is called, so that the count remains if this process dies too.

    Args:
        running: the deliveries whose actor runs, by their ``id()``; the consumer removes them.
        count_start: counts the start of an attempt.
    """

    def __init__(
        self,
        running: dict[int, Delivery] | None = None,
        count_start: Callable[[Delivery], None] | None = None,
    ) -> None:
        self._running = {} if running is None else running
        self._count_start = count_start

    def before_process_message(
        self, broker: dramatiq.Broker, message: dramatiq.MessageProxy
    ) -> None:
        if not isinstance(message, Delivery):
            return
        message.started = time.monotonic()
        enter_job(message, disclosure_of(broker, message.actor_name))
        self._running[id(message)] = message
        if self._count_start is not None and (message.options or message.size > 1):
            self._count_start(message)
        if message.count_quarantine_run is None:
            return
        try:
            message.begin_quarantine_run()
        except BrokerError as error:
            message.outcome = Defer(timedelta(seconds=1), str(error), DeferReason.STORE_UNAVAILABLE)
            raise SkipMessage(str(error)) from error
