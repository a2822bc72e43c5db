"""Rate limits in Redis, shared by all processes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from ..digests import digest
from ..millis import duration_millis
from ..rate_limits import KEEP_ONCE, LATE, NO_BOOKING, Limit, check_wanted, closure
from .base import ScriptStore

_MICROSECOND = timedelta(microseconds=1)


class RedisRateLimits(ScriptStore):
    """Rate limits of all processes, by the server's clock."""

    script = "rate_limits.lua"
    #: Stands between the namespace and the digest of a key.
    prefix = ":__limits__."

    def take(
        self,
        wanted: Sequence[tuple[str, Limit | None]],
        cost: int | Sequence[int] = 1,
        *,
        once: str | None = None,
        book: timedelta = NO_BOOKING,
    ) -> timedelta | None:
        checked = check_wanted(wanted, cost)
        if not checked:
            return None
        numbers = [part for one in checked for part in (one.interval, one.capacity, one.cost)]
        keys = [self._prefix + digest(one.key) for one in checked]
        if once is not None:
            keys.append(f"{self._prefix}once.{digest(once)}")
        keep = "" if once is None else duration_millis(KEEP_ONCE)
        times = [book // _MICROSECOND, LATE // _MICROSECOND]
        wait = int(self._run_script(keys, "take", keep, *times, *numbers))
        return timedelta(microseconds=wait) if wait > 0 else None

    def close_until(self, key: str, after: timedelta) -> None:
        self._run_script([self._prefix + digest(key)], "close", closure(after))
