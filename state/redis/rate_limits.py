"""Rate limits in Redis, shared by all processes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from importlib.resources import files
from typing import Any

from ..digests import digest
from ..rate_limits import KEEP_ONCE, LATE, NO_BOOKING, Limit, check_wanted, closure
from . import DEFAULT_NAMESPACE
from .client import repeated
from .connection import translated

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
        self._where = where
        self._prefix = namespace + PREFIX
        script = files(__package__).joinpath("rate_limits.lua").read_text()
        self._script = client.register_script(script)

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
        keep = "" if once is None else KEEP_ONCE // timedelta(milliseconds=1)
        times = [book // _MICROSECOND, LATE // _MICROSECOND]
        wait = int(self._call(keys, "take", keep, *times, *numbers))
        return timedelta(microseconds=wait) if wait > 0 else None

    def close_until(self, key: str, after: timedelta) -> None:
        self._run(key, "close", closure(after))

    def reopen(self, key: str) -> None:
        self._run(key, "reopen")

    def _run(self, key: str, *args: Any) -> Any:
        return self._call([self._prefix + digest(key)], *args)

    def _call(self, keys: Sequence[str], *args: Any) -> Any:
        with translated(self._where):
            return repeated(lambda _: self._script(keys=keys, args=args))
