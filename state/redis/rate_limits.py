"""Rate limits in Redis, shared by all processes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from ..digests import digest
from ..millis import duration_millis
from ..rate_limits import KEEP_ONCE, LATE, NO_BOOKING, Limit, check_wanted, closure
from . import DEFAULT_NAMESPACE
from .script import Script

#: Stands between the namespace and the digest of a key.
PREFIX = ":__limits__."
_MICROSECOND = timedelta(microseconds=1)


class RedisRateLimits:
    """Rate limits of all processes, by the server's clock.

    Args:
        client: a :class:`.client.RedisClient`; its maker closes it.
        where: the server's address, for error messages.
        namespace: prefix of the keys.
    """

    def __init__(self, client: Any, where: str, namespace: str = DEFAULT_NAMESPACE) -> None:
        self._prefix = namespace + PREFIX
        self._script = Script("rate_limits.lua", client, where)

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
        wait = int(self._script(keys, "take", keep, *times, *numbers))
        return timedelta(microseconds=wait) if wait > 0 else None

    def close_until(self, key: str, after: timedelta) -> None:
        self._script([self._prefix + digest(key)], "close", closure(after))
