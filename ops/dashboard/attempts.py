"""Counts failed logins of an address, and makes it wait after the fifth in a minute."""

from __future__ import annotations

from collections import OrderedDict, deque
from threading import Lock

from ...core.clock import SYSTEM_CLOCK, Clock

_FREE, _WINDOW_SECONDS = 5, 60.0
#: Maximum number of addresses that are remembered.
_ADDRESSES = 1_000


class LoginAttempts:
    """The failed logins of the last minute, by address."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def seconds_to_wait(self, address: str) -> float:
        """Return the seconds until the next login of an address is checked; 0: now."""
        with self._lock:
            times = self._failures.get(address)
            if times is None or len(times) < _FREE:
                return 0
            return max(0, times[0] + _WINDOW_SECONDS - self._clock.monotonic())

    def count(self, address: str) -> None:
        """Count a failed login."""
        with self._lock:
            times = self._failures.setdefault(address, deque(maxlen=_FREE))
            times.append(self._clock.monotonic())
            self._failures.move_to_end(address)
            while len(self._failures) > _ADDRESSES:
                self._failures.popitem(last=False)
