"""Settlements that the broker refused: the messages stay in flight, retried with back-off."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Generic, TypeVar

from ..core.clock import Clock
from ..core.retry import Exponential, RetryPolicy
from .errors import BrokerRefused, BrokerUnavailable

logger = logging.getLogger("formrelay.brokers")

T = TypeVar("T")

_AGAIN = RetryPolicy(
    backoff=Exponential(base=timedelta(seconds=1), cap=timedelta(seconds=60)), jitter=0
)


class Refused(Generic[T]):
    """The refused replacements of one queue, all tried again at the same time.

    Not thread-safe: its owner guards it.
    """

    def __init__(self, clock: Clock, queue: str) -> None:
        self._clock = clock
        self._queue = queue
        self._items: list[T] = []
        self._failures = 0
        self._retry_at = 0.0

    def __len__(self) -> int:
        return len(self._items)

    def next_due(self) -> float | None:
        """Return the time of the next retry, monotonic seconds; None if nothing was refused."""
        return self._retry_at if self._items else None

    def take_due(self, *, is_last: bool = False) -> list[T]:
        """Remove and return the items that are due; the caller adds the items that fail again.

        Args:
            is_last: also return items that are not due yet.
        """
        if not self._items or (self._retry_at > self._clock.monotonic() and not is_last):
            return []
        taken, self._items = self._items, []
        return taken

    def add(self, items: Iterable[T], error: BrokerRefused | BrokerUnavailable) -> None:
        """Keep refused items for a later retry; log once per back-off interval."""
        is_waiting = bool(self._items)
        self._items += items
        if is_waiting or not self._items:
            return
        self._failures += 1
        wait = _AGAIN.wait_before(self._failures + 1).total_seconds()
        self._retry_at = self._clock.monotonic() + wait
        logger.error(
            "the broker refused settled messages; they stay in flight and are retried",
            extra={
                "queue": self._queue,
                "messages": len(self._items),
                "error_message": error.message,
                "retry_in_s": wait,
            },
        )

    def settled(self) -> None:
        """Reset the back-off after a successful retry."""
        if not self._items:
            self._failures = 0
