"""The store that monitors share, in Redis."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import orjson

from ..alert_store import (
    KEEP,
    MAX_ENTRIES,
    MAX_MONITORS,
    MONITOR_KEEP,
    Leadership,
    OutboxEntry,
    in_order,
    leader_first,
)
from ..millis import duration_millis
from . import StateRedis
from .base import ScriptStore


class RedisAlertStore(ScriptStore):
    """The store that all monitors share, by the server's clock."""

    script = "alert_store.lua"
    #: Stands behind the namespace.
    prefix = ":__alerts__"

    def __init__(self, redis: StateRedis, *, most: int = MAX_ENTRIES) -> None:
        super().__init__(redis)
        self._most = most

    def lead(self, name: str, lasts: timedelta, clock: float) -> Leadership:
        leads, now, ends, leader, *others = self._run(
            *("lead", name, duration_millis(lasts), round(clock * 1000)),
            *(duration_millis(MONITOR_KEEP), MAX_MONITORS),
        )
        names = (each.decode(errors="replace") for each in others[::2])
        clocks = {each: int(ahead) / 1000 for each, ahead in zip(names, others[1::2], strict=True)}
        monitors = leader_first(leader.decode(errors="replace"), clocks)
        return Leadership(bool(leads), int(now) / 1000, int(ends) / 1000, monitors, clocks)

    def let_go(self, name: str) -> None:
        self._run("let_go", name)

    def load(self) -> tuple[Any, list[OutboxEntry]]:
        with self._connected() as client:
            states = client.hget(self._prefix, "states")
            found = client.hvals(f"{self._prefix}.outbox")
        entries = [OutboxEntry.from_json(_parsed(each)) for each in found]
        return _parsed(states), in_order(each for each in entries if each is not None)

    def commit(self, name: str, states: Any, entries: Sequence[OutboxEntry]) -> int | None:
        arguments: list[Any] = []
        for entry in entries:
            arguments += [entry.key, round(entry.at * 1000), orjson.dumps(entry.to_json())]
        keep = duration_millis(KEEP)
        dropped = self._run("commit", name, orjson.dumps(states), keep, self._most, *arguments)
        return None if dropped < 0 else int(dropped)

    def settle(self, delivered: Sequence[OutboxEntry], failed: Sequence[OutboxEntry] = ()) -> None:
        arguments: list[Any] = [entry.key for entry in delivered]
        for entry in failed:
            arguments += [entry.key, orjson.dumps(entry.to_json())]
        self._run("settle", len(delivered), *arguments)

    def _run(self, what: str, *args: Any) -> Any:
        names = ("", ".outbox", ".outbox.times", ".monitors")
        return self._run_script([self._prefix + name for name in names], what, *args)


def _parsed(data: bytes | None) -> Any:
    try:
        return None if data is None else orjson.loads(data)
    except ValueError:
        return None
