"""Connects attempts with the circuit breaker of the actor's sink."""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.middleware import Middleware, SkipMessage

from ..core.errors import DeferReason
from ..core.outcomes import Defer
from ..core.throttle import Throttle
from .delivery import Batch, Delivery
from .outcomes import is_deferred


class Throttling(Middleware):
    """Reports attempts to the actor's throttle, and defers messages while the throttle is open.

    Consumers ask the same throttle before they fetch (``sink_limit()`` in
    ``brokers/consumer.py``), so only messages that were prefetched earlier are deferred here.
    """

    @property
    def actor_options(self) -> set[str]:
        """``throttle``: a :class:`~formrelay.core.throttle.Throttle`."""
        return {"throttle"}

    def before_process_message(
        self, broker: dramatiq.Broker, message: dramatiq.MessageProxy
    ) -> None:
        throttle = _throttle_of(broker, message)
        if throttle is None or not (wait := throttle.open_for()):
            return
        assert isinstance(message, Delivery)
        reason = DeferReason.SINK_UNAVAILABLE if throttle.is_failing else DeferReason.RATE_LIMIT
        message.outcome = Defer(wait, f"{throttle.title} is unavailable", reason)
        raise SkipMessage(message.outcome.why)

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        throttle = _throttle_of(broker, message)
        if throttle is None:
            return
        assert isinstance(message, Delivery)
        if message.claim is not None and message.claim.result is not None:
            return  # the result came from the idempotency store: the sink was not asked
        parts = len(message.parts) if isinstance(message, Batch) else 1
        throttle.note(exception, parts=parts)

    def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """Report an attempt that was deferred because of its error, as for an unavailable sink."""
        if isinstance(message, Delivery) and is_deferred(message) and message.exception is not None:
            self.after_process_message(broker, message, exception=message.exception)


def _throttle_of(broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> Throttle | None:
    actor = broker.actors.get(message.actor_name)
    if actor is None or not isinstance(message, Delivery):
        return None
    found: Throttle | None = actor.options.get("throttle")
    return found
