"""Limits logins: an address waits after five failed logins in a minute."""

from __future__ import annotations

from collections import OrderedDict, deque
from threading import Lock

from ...core.clock import SYSTEM_CLOCK, Clock

#: Number of failed logins in the window after which an address waits.
_MAX_FAILURES, _WINDOW_SECONDS = 5, 60.0
#: Maximum number of addresses that are remembered.
_MAX_ADDRESSES = 1_000


class FailedLogins:
    """The failed logins of the last minute, by address. Thread-safe."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def seconds_to_wait(self, address: str) -> float:
        """Return the seconds for which logins of an address are refused; 0: they are checked."""
        with self._lock:
            times = self._times.get(address)
            if times is None or len(times) < _MAX_FAILURES:
                return 0
            return max(0, times[0] + _WINDOW_SECONDS - self._clock.monotonic())

    def add(self, address: str) -> None:
        """Count a failed login of an address."""
        with self._lock:
            times = self._times.setdefault(address, deque(maxlen=_MAX_FAILURES))
            times.append(self._clock.monotonic())
            self._times.move_to_end(address)
            while len(self._times) > _MAX_ADDRESSES:
                self._times.popitem(last=False)
