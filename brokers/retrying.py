"""When a consumer reconnects, and when it repeats settlements that the broker refused."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Generic, TypeVar

from ..core.backoff import BackoffTimer
from ..core.clock import Clock
from ..core.retry import Exponential
from .errors import BrokerRefused, BrokerUnavailable

logger = logging.getLogger("formrelay.brokers")

T = TypeVar("T")

_RECONNECT = Exponential(base=timedelta(milliseconds=100), cap=timedelta(seconds=5))
#: Maximum share of the wait that is added at random: workers do not reconnect at the same moment.
_RECONNECT_JITTER = 0.5
#: Seconds between two log lines about a refusal, which lasts until an operator fixes it.
_REFUSAL_LOG_INTERVAL = 60.0
_SETTLE_AGAIN = Exponential(base=timedelta(seconds=1), cap=timedelta(seconds=60))


class Reconnect:
    """The reconnect policy of one consumer. Used by one thread."""

    def __init__(self, queue: str, clock: Clock) -> None:
        self._queue = queue
        self._clock = clock
        self._timer = BackoffTimer(clock)
        self._logged_at = -_REFUSAL_LOG_INTERVAL
        #: Text of the last error, which may be read by other threads; None after a success.
        self.problem: str | None = None

    @property
    def failures(self) -> int:
        """Number of failures since the last success."""
        return self._timer.failures

    @property
    def seconds(self) -> float:
        """Seconds until the next try."""
        return self._timer.remaining.total_seconds()

    def succeeded(self) -> None:
        """Reset the back-off."""
        self.problem = None
        self._timer.reset()

    def failed(self, error: BrokerUnavailable | BrokerRefused) -> None:
        """Increase the back-off and log the error."""
        self.problem = str(error)
        wait = self._timer.fail(_RECONNECT, jitter=_RECONNECT_JITTER)
        if isinstance(error, BrokerRefused):
            now = self._clock.monotonic()
            if now - self._logged_at < _REFUSAL_LOG_INTERVAL:
                return
            self._logged_at = now
        logger.error(
            "broker error, reconnecting",
            extra={
                "queue": self._queue,
                "error_message": str(error),
                "retry_in_s": round(wait.total_seconds(), 3),
            },
        )


class Refused(Generic[T]):
    """The refused replacements of one queue, all tried again at the same time.

    Not thread-safe: its owner guards it.
    """

    def __init__(self, clock: Clock, queue: str) -> None:
        self._clock = clock
        self._queue = queue
        self._items: list[T] = []
        self._timer = BackoffTimer(clock)

    def __len__(self) -> int:
        return len(self._items)

    def next_due(self) -> float | None:
        """Return the time of the next retry, monotonic seconds; None if nothing was refused."""
        return self._timer.due_at if self._items else None

    def take_due(self, *, is_last: bool = False) -> list[T]:
        """Remove and return the items that are due; the caller adds the items that fail again.

        Args:
            is_last: also return items that are not due yet.
        """
        if not self._items or (self._timer.due_at > self._clock.monotonic() and not is_last):
            return []
        taken, self._items = self._items, []
        return taken

    def add(self, items: Iterable[T], error: BrokerRefused | BrokerUnavailable) -> None:
        """Keep refused items for a later retry; log once per back-off interval."""
        is_waiting = bool(self._items)
        self._items += items
        if is_waiting or not self._items:
            return
        wait = self._timer.fail(_SETTLE_AGAIN)
        logger.error(
            "the broker refused settled messages; they stay in flight and are retried",
            extra={
                "queue": self._queue,
                "messages": len(self._items),
                "error_message": error.message,
                "retry_in_s": wait.total_seconds(),
            },
        )

    def settled(self) -> None:
        """Reset the back-off after a successful retry."""
        if not self._items:
            self._timer.reset()
