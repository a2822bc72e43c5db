"""A Lua script on one Redis."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from .client import repeated
from .connection import translated


class Script:
    """A Lua script that lies in this folder. A call whose connection was dropped is repeated.

    Args:
        name: the file, ``leases.lua``.
        client: a :class:`.client.RedisClient`.
        where: the server's address, for error messages.

    Raises (each call):
        BrokerUnavailable, BrokerRefused: the server failed.
    """

    def __init__(self, name: str, client: Any, where: str) -> None:
        self._where = where
        self._script = client.register_script(files(__package__).joinpath(name).read_text())

    def __call__(self, keys: Sequence[str], *args: Any) -> Any:
        with translated(self._where):
            return repeated(lambda _: self._script(keys=keys, args=args))
