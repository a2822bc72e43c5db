"""What the stores in Redis share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, ClassVar

from . import StateRedis
from .client import repeated
from .connection import translated


class RedisStore:
    """A store in Redis, shared by all processes.

    Args:
        redis: the Redis; its maker closes the client.

    Attributes:
        prefix: stands behind the namespace in the names of keys.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: the server failed.
    """

    prefix: ClassVar[str]

    def __init__(self, redis: StateRedis) -> None:
        self._redis = redis
        self._prefix = redis.namespace + self.prefix

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Yield the client; its errors become BrokerUnavailable and BrokerRefused."""
        with translated(self._redis.where):
            yield self._redis.client


class ScriptStore(RedisStore):
    """A store in Redis that changes its keys with one Lua script.

    Attributes:
        script: the script, a file in this folder.
    """

    script: ClassVar[str]

    def __init__(self, redis: StateRedis) -> None:
        super().__init__(redis)
        text = files(__package__).joinpath(self.script).read_text()
        self._script = redis.client.register_script(text)

    def _run_script(self, keys: Sequence[str], *args: Any) -> Any:
        """Run the script, a second time if its connection was dropped."""
        with self._connected():
            return repeated(lambda _: self._script(keys=keys, args=args))
