"""A redis-py client that survives connections dropped while they were idle.

Load balancers and NATs drop idle connections, and the client learns of it at the next command:

- A connection that was idle for a while is checked before it is used, and replaced.
- A command that finds its connection dropped is repeated once on a new connection, if it is
  idempotent. For other commands, callers use :func:`repeated` and handle the repetition.
- All other idle connections are then closed: most likely all of them were dropped.

A command that timed out is never repeated: the caller has waited long enough.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, TypeVar

import redis
from redis.client import Pipeline
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from ...core.compute_turns import TURNS
from .pool import NoConnectionFree

T = TypeVar("T")

#: Commands that may run twice: they read, or the second run changes nothing.
_IDEMPOTENT = frozenset([
    "PING", "INFO", "TIME", "TYPE", "EXISTS", "GET", "MGET", "HGET", "HMGET", "HVALS", "HKEYS",
    "HGETALL", "HLEN", "HEXISTS", "HSCAN", "LLEN", "LINDEX", "LRANGE", "SMEMBERS", "SISMEMBER",
    "SCARD", "ZCARD", "ZCOUNT", "ZRANGE", "ZREVRANGE", "ZRANGEBYSCORE", "ZSCORE", "ZMSCORE",
    "ZRANK", "ZSCAN", "SCAN", "WATCH", "SADD", "ZADD", "HSET", "DEL", "EXPIRE", "SCRIPT",
])  # fmt: skip


class NotAsked(redis.TimeoutError):
    """Redis did not answer before, and the program does not wait once more: nothing was sent."""


def was_dropped(error: redis.RedisError) -> bool:
    """Whether an error means that the connection is lost and a new connection may work."""
    refusals = (redis.AuthenticationError, redis.exceptions.AuthorizationError, NoConnectionFree)
    return isinstance(error, redis.ConnectionError) and not isinstance(error, refusals)


def repeated(call: Callable[[bool], T]) -> T:
    """Run ``call`` on a :class:`RedisClient`, and repeat it once if its connection was dropped.

    Args:
        call: gets whether this is the repetition. Redis may have executed the first call.
    """
    try:
        return call(False)
    except redis.ConnectionError as error:
        if not was_dropped(error):
            raise
    return call(True)


class RedisClient(redis.Redis):
    """A client that checks and replaces dropped connections.

    Attributes:
        is_ending: returns whether the process is shutting down. From then on, a server that did
            not answer once is not asked again: each command would wait for its time-out.
    """

    is_ending: Callable[[], bool] = staticmethod(lambda: False)
    _was_silent = False
    _rest, _rests_until = 0.0, -math.inf

    def execute_command(self, *args: Any, **options: Any) -> Any:
        call: Any = super().execute_command
        return self.guarded((args,), call, args, options)

    def guarded(
        self,
        commands: Sequence[tuple[Any, ...]],
        call: Callable[..., T],
        args: tuple[Any, ...] = (),
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> T:
        """Run ``call``; repeat it if its connection was dropped and all commands are idempotent."""
        if time.monotonic() < self._rests_until:
            raise NotAsked(f"no answer before; not asked again for {self._rest:g} s")
        if self.is_ending():
            if self._was_silent:
                raise NotAsked("no answer before; not asked again while shutting down")
            self._hurry()
        try:
            return call(*args, **options)
        except redis.ConnectionError as error:
            if not was_dropped(error):
                raise
            self.drop_idle()
            if not all(_is_idempotent(command) for command in commands):
                raise
        except redis.TimeoutError:
            self._was_silent = self.is_ending()
            self._rests_until = time.monotonic() + self._rest
            self.drop_idle()
            raise
        return call(*args, **options)

    def be_impatient(self, rest: float) -> None:
        """Wait for answers as long as for a connection, for programs in which people wait.

        Args:
            rest: seconds in which a server that did not answer is not asked again.
        """
        self._rest = rest
        self._hurry()

    def _hurry(self) -> None:
        """Limit the wait for an answer on new connections to the connect time-out."""
        options = self.connection_pool.connection_kwargs
        if "socket_connect_timeout" in options:
            longest = min(options["socket_timeout"], options["socket_connect_timeout"])
            options["socket_timeout"] = longest

    def drop_idle(self) -> None:
        """Close the connections that are not in use."""
        with suppress(redis.RedisError, OSError):
            self.connection_pool.disconnect(inuse_connections=False)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        pipeline = GuardedPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )
        pipeline.owner = self
        return pipeline

    def close(self) -> None:
        super().close()
        # Newer versions of redis-py do not close a pool that was passed to them.
        self.connection_pool.disconnect()


class GuardedPipeline(Pipeline):
    """A pipeline of a :class:`RedisClient`."""

    owner: RedisClient

    def execute(self, raise_on_error: bool = True) -> Any:
        stack, was_watching = list(self.command_stack), self.watching

        execute: Any = super().execute

        def call() -> Any:
            self.command_stack = list(stack)
            return execute(raise_on_error)

        if was_watching:  # WATCH holds for the old connection only: do not repeat
            return call()
        return self.owner.guarded([args for args, _ in stack], call)

    def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        call: Any = super().immediate_execute_command
        if self.watching:
            return call(*args, **options)
        return self.owner.guarded((args,), call, args, options)


def _is_idempotent(command: tuple[Any, ...]) -> bool:
    name = str(command[0]).upper()
    if name == "SET":
        return not {"NX", "XX", "GET"} & {part for part in command[3:] if isinstance(part, str)}
    return name.partition(" ")[0] in _IDEMPOTENT


class _Checked:
    """A connection that reconnects if the check before a command fails."""

    _is_connecting = False

    def connect(self: Any) -> None:
        self._is_connecting = True
        try:
            super().connect()  # type: ignore[misc]
        finally:
            self._is_connecting = False

    def check_health(self: Any) -> None:
        if self._is_connecting:  # a new connection needs no check
            return
        try:
            super().check_health()  # type: ignore[misc]
        except (redis.ConnectionError, redis.TimeoutError):
            # The command has not been sent yet.
            self.disconnect()
            self.connect()

    def read_response(self: Any, *args: Any, **options: Any) -> Any:
        TURNS.pause()
        return super().read_response(*args, **options)  # type: ignore[misc]

    def _send_ping(self: Any) -> None:
        self.send_command("PING", check_health=False)
        # Shorter than the time-out for an answer: the command after the check needs time too.
        timeout = getattr(self, "socket_connect_timeout", None) or self.socket_timeout
        if not self.can_read(timeout=timeout):
            raise redis.TimeoutError("no answer to PING")
        if self.read_response() not in (b"PONG", "PONG"):
            raise redis.ConnectionError("expected PONG")


class TcpConnection(_Checked, Connection):
    """A checked connection over TCP."""


class TlsConnection(_Checked, SSLConnection):
    """A checked connection over TLS."""


class SocketConnection(_Checked, UnixDomainSocketConnection):
    """A checked connection over a Unix socket."""


class MasterConnection(_Checked, SentinelManagedConnection):
    """A checked connection to the master that the Sentinels name."""


class TlsMasterConnection(_Checked, SentinelManagedSSLConnection):
    """A checked connection over TLS to the master that the Sentinels name."""
