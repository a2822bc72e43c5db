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
    SheetFacts,
)
from ..digests import digest
from ..millis import duration_millis
from . import StateRedis
from .base import ScriptStore
from .client import repeated


class RedisClaims(ScriptStore):
    """Claims of all processes.

    Args:
        keep_open: how long a job without a known outcome is remembered.
        keep_done: how long a job whose rows are written is remembered.
    """

    script = "claims.lua"
    #: Stands between the namespace and the digest of a spreadsheet's id.
    prefix = ":__claims__."

    def __init__(
        self,
        redis: StateRedis,
        *,
        keep_open: timedelta = KEEP_OPEN,
        keep_done: timedelta = KEEP_DONE,
    ) -> None:
        super().__init__(redis)
        self._times = [duration_millis(time) for time in (keep_open, keep_done, FENCE)]

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

    def settle(self, sheet: str, facts: SheetFacts) -> None:
        done = [digest(job) for job in facts.done]
        lists = [facts.applied, facts.void, facts.refused, done, facts.evicted]
        if any(lists):
            items = [item for each in lists for item in each]
            self._run(sheet, ["settle", *self._times, *map(len, lists), *items])

    def done(self, sheet: str, jobs: Iterable[str]) -> frozenset[str]:
        asked = list(jobs)
        if not asked:
            return frozenset()
        names = [f"j{digest(job)}" for job in asked]
        key = self._prefix + digest(sheet)
        with self._connected() as client:
            values = repeated(lambda _: client.hmget(key, names))
        return frozenset(job for job, value in zip(asked, values, strict=True) if value == b"d")

    def _run(self, sheet: str, args: Sequence[Any]) -> Any:
        name = self._prefix + digest(sheet)
        keys = [name, *(f"{name}.{part}" for part in ("jobs", "open", "entries"))]
        return self._run_script(keys, *args)
