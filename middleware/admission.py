"""admit: the last check before an actor is called."""

from __future__ import annotations

import time
from datetime import timedelta

import dramatiq
from dramatiq.middleware import Middleware, SkipMessage

from ..core.errors import BrokerError
from ..core.outcomes import Defer
from .delivery import Delivery


class Admission(Middleware):
    """Marks the start of an attempt; for a suspect, on the broker before anything else.

    A message that was in the hands of a worker that died may have killed it.
    It is counted on the broker before it runs again, so that the count stands
    even if the process does not live to settle it.
    """

    def before_process_message(
        self, broker: dramatiq.Broker, message: dramatiq.MessageProxy
    ) -> None:
        if not isinstance(message, Delivery):
            return
        message.started = time.monotonic()
        if message.before_trial is None:
            return
        try:
            message.begin_trial()
        except BrokerError as error:
            message.outcome = Defer(timedelta(seconds=1), str(error))
            raise SkipMessage(str(error)) from error
