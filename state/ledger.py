"""The ledger of one process, until it ends."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock

from ..core.clock import SYSTEM_CLOCK, Clock
from ..middleware.once import Held, Known

#: Results that are kept; the oldest are forgotten for newer ones.
_MOST = 100_000


@dataclass(frozen=True, slots=True)
class _Entry:
    ends_at: float
    owner: str | None = None
    result: bytes = b""


class MemoryLedger:
    """See :class:`~formrelay.middleware.once.Ledger`. Safe across threads."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def begin(self, key: str, owner: str, lock: timedelta) -> Known | Held | None:
        with self._lock:
            entry = self._get(key)
            if entry is None:
                self._put(key, _Entry(self._in(lock), owner))
                return None
            if entry.owner is None:
                return Known(entry.result)
            return Held(timedelta(seconds=entry.ends_at - self._clock.monotonic()))

    def renew(self, key: str, owner: str, lock: timedelta) -> bool:
        with self._lock:
            entry = self._get(key)
            if entry is None or entry.owner != owner:
                return False
            self._put(key, _Entry(self._in(lock), owner))
            return True

    def finish(self, key: str, owner: str, result: bytes, keep: timedelta) -> bool:
        with self._lock:
            entry = self._get(key)
            if entry is not None and entry.owner != owner:
                return False
            self._put(key, _Entry(self._in(keep), None, result))
            return True

    def release(self, key: str, owner: str) -> None:
        with self._lock:
            entry = self._get(key)
            if entry is not None and entry.owner == owner:
                del self._entries[key]

    def _in(self, lasts: timedelta) -> float:
        return self._clock.monotonic() + lasts.total_seconds()

    def _get(self, key: str) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None and entry.ends_at <= self._clock.monotonic():
            del self._entries[key]
            return None
        return entry

    def _put(self, key: str, entry: _Entry) -> None:
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > _MOST:
            oldest, forgotten = self._entries.popitem(last=False)
            if forgotten.owner is not None:  # a job runs under it: another time
                self._entries[oldest] = forgotten
