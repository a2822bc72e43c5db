"""Leases in Redis, shared by all processes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ..digests import digest
from ..millis import duration_millis
from .base import ScriptStore


class RedisLeases(ScriptStore):
    """Leases of all processes, by the server's clock."""

    script = "leases.lua"
    #: Stands between the namespace and the digest of a key.
    prefix = ":__leases__."

    def hold(self, key: str, owner: str, number: int, lasts: timedelta) -> bool:
        return bool(self._run(key, "hold", owner, number, duration_millis(lasts)))

    def let_go(self, key: str, owner: str) -> None:
        self._run(key, "let_go", owner)

    def held(self, key: str) -> int:
        return int(self._run(key, "held", ""))

    def _run(self, key: str, *args: Any) -> Any:
        return self._run_script([self._prefix + digest(key)], *args)
