"""A value that all requests share, and that is read at most once in some seconds."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

from ...brokers import RelayBroker

T = TypeVar("T")


class Cached(Generic[T]):
    """A value that expires. Thread-safe: other threads wait while one reads it.

    Args:
        read: reads the value from a broker or its shared store.
        seconds: age at which the value expires.
    """

    def __init__(self, read: Callable[[RelayBroker], T], seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._lock = Lock()
        self._found: tuple[float, T] | None = None

    def get(self, broker: RelayBroker) -> T:
        """Return the value; read it first if it has expired.

        Raises:
            whatever ``read`` raises.
        """
        with self._lock:
            now = broker.clock.monotonic()
            if self._found is None or now - self._found[0] >= self._seconds:
                self._found = (now, self._read(broker))
            return self._found[1]

    def expire(self) -> None:
        """Let the next call read the value again."""
        with self._lock:
            self._found = None
