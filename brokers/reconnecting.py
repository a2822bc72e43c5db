"""When a consumer tries its broker again, and how often it logs that it cannot reach it."""

from __future__ import annotations

import logging
from datetime import timedelta

from ..core.clock import Clock
from ..core.retry import Exponential, RetryPolicy
from .errors import BrokerRefused, BrokerUnavailable

logger = logging.getLogger("formrelay.brokers")

#: With jitter, so that workers do not reconnect at the same moment.
_RECONNECT = RetryPolicy(
    backoff=Exponential(base=timedelta(milliseconds=100), cap=timedelta(seconds=5)), jitter=0.5
)
#: Seconds between two log lines about a refusal, which lasts until an operator fixes it.
_REFUSAL_LOG_INTERVAL = 60.0


class Reconnect:
    """The reconnect policy of one consumer. Used by one thread.

    Attributes:
        failures: number of failures since the last success.
    """

    def __init__(self, queue: str, clock: Clock) -> None:
        self.failures = 0
        self._queue = queue
        self._clock = clock
        self._retry_at = 0.0
        self._logged_at = -_REFUSAL_LOG_INTERVAL

    @property
    def seconds(self) -> float:
        """Seconds until the next try."""
        return max(0.0, self._retry_at - self._clock.monotonic())

    def succeeded(self) -> None:
        """Reset the back-off."""
        self.failures = 0

    def failed(self, error: BrokerUnavailable | BrokerRefused) -> None:
        """Increase the back-off and log the error."""
        self.failures += 1
        wait = _RECONNECT.wait_before(self.failures + 1).total_seconds()
        now = self._clock.monotonic()
        self._retry_at = now + wait
        if isinstance(error, BrokerRefused):
            if now - self._logged_at < _REFUSAL_LOG_INTERVAL:
                return
            self._logged_at = now
        logger.error(
            "broker error, reconnecting",
            extra={
                "queue": self._queue,
                "error_message": str(error),
                "retry_in_s": round(wait, 3),
            },
        )
