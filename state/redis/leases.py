"""Leases in Redis, shared by all processes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ..digests import digest
from ..millis import duration_millis
from . import DEFAULT_NAMESPACE
from .script import Script

#: Stands between the namespace and the digest of a key.
PREFIX = ":__leases__."


class RedisLeases:
    """Leases of all processes, by the server's clock.

    Args:
        client: a :class:`.client.RedisClient`; its maker closes it.
        where: the server's address, for error messages.
        namespace: prefix of the keys.
    """

    def __init__(self, client: Any, where: str, namespace: str = DEFAULT_NAMESPACE) -> None:
        self._prefix = namespace + PREFIX
        self._script = Script("leases.lua", client, where)

    def hold(self, key: str, owner: str, number: int, lasts: timedelta) -> bool:
        return bool(self._run(key, "hold", owner, number, duration_millis(lasts)))

    def let_go(self, key: str, owner: str) -> None:
        self._run(key, "let_go", owner)

    def held(self, key: str) -> int:
        return int(self._run(key, "held", ""))

    def _run(self, key: str, *args: Any) -> Any:
        return self._script([self._prefix + digest(key)], *args)
