"""When a consumer tries RabbitMQ again, and how often it says that it does not serve."""

from __future__ import annotations

import logging
from datetime import timedelta

from ...core.clock import Clock
from ...core.retry import Exponential, RetryPolicy
from ..errors import BrokerRefused, BrokerUnavailable

logger = logging.getLogger("formrelay.brokers")

#: Soon at first, never in a tight loop, and not all workers at one moment.
_RECONNECT = RetryPolicy(
    backoff=Exponential(base=timedelta(milliseconds=100), cap=timedelta(seconds=5)), jitter=0.5
)
#: What RabbitMQ refused does not mend itself: said again so seldom, in seconds.
_SAY_AGAIN = 60.0


class Backoff:
    """See the module. Used by one thread."""

    def __init__(self, queue: str, clock: Clock) -> None:
        self.failures = 0
        self._queue = queue
        self._clock = clock
        self._retry_at = 0.0
        self._said_at = -_SAY_AGAIN

    @property
    def seconds(self) -> float:
        """Until the next try."""
        return max(0.0, self._retry_at - self._clock.monotonic())

    def failed(self, error: BrokerUnavailable | BrokerRefused, *, served: bool) -> None:
        """Wait longer than the last time.

        Args:
            served: whether it worked in between.
        """
        self.failures = 1 if served else self.failures + 1
        wait = _RECONNECT.wait_before(self.failures + 1).total_seconds()
        now = self._clock.monotonic()
        self._retry_at = now + wait
        if isinstance(error, BrokerRefused):
            if now - self._said_at < _SAY_AGAIN:
                return
            self._said_at = now
        logger.error(
            "the broker does not serve this consumer",
            extra={
                "queue": self._queue,
                "error_message": str(error),
                "retry_in_s": round(wait, 3),
            },
        )
