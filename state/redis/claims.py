"""Claims in Redis, shared by all processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from ..claims import (
    FENCE,
    KEEP_DONE,
    KEEP_ENTRIES,
    KEEP_OPEN,
    MANY_OPEN,
    MAX_EVICTED,
    MAX_STALE,
    ClaimResult,
)
from ..digests import digest
from ..millis import duration_millis
from . import DEFAULT_NAMESPACE
from .client import repeated
from .connection import translated
from .script import Script

#: Stands between the namespace and the digest of a spreadsheet's id.
PREFIX = ":__claims__."


class RedisClaims:
    """Claims of all processes.

    Args:
        client: a :class:`.client.RedisClient`; its maker closes it.
        where: the server's address, for error messages.
        namespace: prefix of the keys.
        keep_open: how long a job without a known outcome is remembered.
        keep_done: how long a job whose rows are written is remembered.
    """

    def __init__(
        self,
        client: Any,
        where: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        keep_open: timedelta = KEEP_OPEN,
        keep_done: timedelta = KEEP_DONE,
    ) -> None:
        self._where, self._client = where, client
        self._prefix = namespace + PREFIX
        self._times = [duration_millis(time) for time in (keep_open, keep_done, FENCE)]
        self._script = Script("claims.lua", client, where)

    def claim(
        self, sheet: str, token: str, jobs: Sequence[str], places: Mapping[str, int] | None = None
    ) -> ClaimResult:
        places = places or {}
        limits = [KEEP_ENTRIES, MAX_EVICTED, MANY_OPEN, MAX_STALE]
        orders = [part for place, order in places.items() for part in (digest(place), order)]
        what = ["claim", *self._times, *limits, token, len(places), *orders, *map(digest, jobs)]
        done, unknown, opened, evict, newest = self._run(sheet, what)
        return ClaimResult(
            frozenset(jobs[index] for index in done),
            frozenset(jobs[index] for index in unknown),
            tuple(token.decode() for token in opened),
            tuple(token.decode() for token in evict),
            dict(zip(places, map(int, newest), strict=True)),
        )

    def settle(
        self,
        sheet: str,
        *,
        applied: Iterable[str] = (),
        void: Iterable[str] = (),
        refused: Iterable[str] = (),
        done: Iterable[str] = (),
        evicted: Iterable[str] = (),
    ) -> None:
        lists = [list(applied), list(void), list(refused), list(map(digest, done)), list(evicted)]
        if any(lists):
            items = [item for each in lists for item in each]
            self._run(sheet, ["settle", *self._times, *map(len, lists), *items])

    def done(self, sheet: str, jobs: Iterable[str]) -> frozenset[str]:
        asked = list(jobs)
        if not asked:
            return frozenset()
        names = [f"j{digest(job)}" for job in asked]
        key = self._prefix + digest(sheet)
        with translated(self._where):
            values = repeated(lambda _: self._client.hmget(key, names))
        return frozenset(job for job, value in zip(asked, values, strict=True) if value == b"d")

    def _run(self, sheet: str, args: Sequence[Any]) -> Any:
        name = self._prefix + digest(sheet)
        keys = [name, *(f"{name}.{part}" for part in ("jobs", "open", "entries"))]
        return self._script(keys, *args)
