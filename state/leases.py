"""Leases: at most N holders of something at a time over all workers, such as connections."""

from __future__ import annotations

from datetime import timedelta
from threading import Lock
from typing import Protocol

from ..core.clock import SYSTEM_CLOCK, Clock


class Leases(Protocol):
    """Leases by key. Each call is atomic.

    A key is any text; the shared store has its digest only.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: the store failed.
    """

    def hold(self, key: str, owner: str, number: int, lasts: timedelta) -> bool:
        """Take one of ``number`` leases, or extend the owner's lease.

        Args:
            owner: random id of the holder; a connection has one of its own.
            lasts: time from now after which the lease of a dead holder ends. Extend it earlier.

        Returns:
            False if all leases are taken.
        """

    def let_go(self, key: str, owner: str) -> None:
        """Give back the owner's lease, if it has one."""

    def held(self, key: str) -> int:
        """The number of leases that are taken."""


class MemoryLeases:
    """Leases of this process alone. Thread-safe."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        self._ends: dict[str, dict[str, float]] = {}

    def hold(self, key: str, owner: str, number: int, lasts: timedelta) -> bool:
        with self._lock:
            ends = self._live(key)
            if owner not in ends and len(ends) >= number:
                return False
            ends[owner] = self._clock.monotonic() + lasts.total_seconds()
            self._ends[key] = ends
            return True

    def let_go(self, key: str, owner: str) -> None:
        with self._lock:
            ends = self._live(key)
            ends.pop(owner, None)

    def held(self, key: str) -> int:
        with self._lock:
            return len(self._live(key))

    def _live(self, key: str) -> dict[str, float]:
        """The leases of a key that have not ended; keys without any are forgotten."""
        now = self._clock.monotonic()
        live = {owner: at for owner, at in self._ends.get(key, {}).items() if at > now}
        if live:
            self._ends[key] = live
        else:
            self._ends.pop(key, None)
        return live
