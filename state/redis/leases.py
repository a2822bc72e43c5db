"""Leases in Redis, shared by all processes."""

from __future__ import annotations

from datetime import timedelta
from importlib.resources import files
from typing import Any

from ..digests import digest
from . import DEFAULT_NAMESPACE
from .client import repeated
from .connection import translated

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
        self._where = where
        self._prefix = namespace + PREFIX
        script = files(__package__).joinpath("leases.lua").read_text()
        self._script = client.register_script(script)

    def hold(self, key: str, owner: str, number: int, lasts: timedelta) -> bool:
        milliseconds = max(1, lasts // timedelta(milliseconds=1))
        return bool(self._run(key, "hold", owner, number, milliseconds))

    def let_go(self, key: str, owner: str) -> None:
        self._run(key, "let_go", owner)

    def held(self, key: str) -> int:
        return int(self._run(key, "held", ""))

    def _run(self, key: str, *args: Any) -> Any:
        with translated(self._where):
            keys = [self._prefix + digest(key)]
            return repeated(lambda _: self._script(keys=keys, args=args))
