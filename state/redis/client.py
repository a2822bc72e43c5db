"""The redis-py client: what it does when a connection was dropped while it was idle.

A load balancer or NAT drops connections that were idle, and the client learns of it from the next
command. Nobody should have to see that:

- A connection that was idle for a while is checked before it is used, and replaced.
- A command that finds its connection dropped is repeated once on a new connection, where that is
  harmless. Whoever sends something else uses :func:`repeated` and knows what a repetition is.
- All idle connections are dropped then: what dropped one has most likely dropped them all.

A time-out is never repeated: the caller has waited long enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, TypeVar

import redis
from redis.client import Pipeline
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from .pool import NoConnectionFree

T = TypeVar("T")

#: Commands that may run twice: they read, or the second run changes nothing.
_HARMLESS = frozenset([
    "PING", "INFO", "TIME", "TYPE", "EXISTS", "GET", "MGET", "HGET", "HMGET", "HVALS", "HKEYS",
    "HGETALL", "HLEN", "HEXISTS", "HSCAN", "LLEN", "LINDEX", "LRANGE", "SMEMBERS", "SISMEMBER",
    "SCARD", "ZCARD", "ZCOUNT", "ZRANGE", "ZREVRANGE", "ZRANGEBYSCORE", "ZSCORE", "ZMSCORE",
    "ZRANK", "ZSCAN", "SCAN", "WATCH", "SADD", "ZADD", "HSET", "DEL", "EXPIRE", "SCRIPT",
])  # fmt: skip


class NotAsked(redis.TimeoutError):
    """Redis has not answered before, and the process ends: it was not asked again."""


def was_dropped(error: redis.RedisError) -> bool:
    """Whether an error says that the connection is gone, and a new one may work."""
    refusals = (redis.AuthenticationError, redis.exceptions.AuthorizationError, NoConnectionFree)
    return isinstance(error, redis.ConnectionError) and not isinstance(error, refusals)


def repeated(call: Callable[[bool], T]) -> T:
    """Do ``call``, and once more on a new connection where it found its connection dropped.

    Of a :class:`Client`, which has dropped its idle connections then.

    Args:
        call: is told whether it is the repetition. What it does the first time may have been
            carried out or not.
    """
    try:
        return call(False)
    except redis.ConnectionError as error:
        if not was_dropped(error):
            raise
    return call(True)


class Client(redis.Redis):
    """See the module.

    Attributes:
        is_ending: tells whether the process is about to end. From then on a server that did not
            answer once is not asked again, or each question would take its time-out.
    """

    is_ending: Callable[[], bool] = staticmethod(lambda: False)
    _was_silent = False

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
        """Do ``call``, and once more where it found its connection dropped and all is harmless."""
        if self.is_ending():
            if self._was_silent:
                raise NotAsked("no answer before, and not asked again since this process ends")
            self._hurry()
        try:
            return call(*args, **options)
        except redis.ConnectionError as error:
            if not was_dropped(error):
                raise
            self.drop_idle()
            if not all(_is_harmless(command) for command in commands):
                raise
        except redis.TimeoutError:
            self._was_silent = self.is_ending()
            self.drop_idle()
            raise
        return call(*args, **options)

    def _hurry(self) -> None:
        """Wait no longer for answers on new connections than for the connections themselves."""
        options = self.connection_pool.connection_kwargs
        if "socket_connect_timeout" in options:
            longest = min(options["socket_timeout"], options["socket_connect_timeout"])
            options["socket_timeout"] = longest

    def drop_idle(self) -> None:
        """Close the connections that nobody uses."""
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
        # Newer versions of redis-py leave a pool open that they were given.
        self.connection_pool.disconnect()


class GuardedPipeline(Pipeline):
    """A pipeline of a :class:`Client`."""

    owner: Client

    def execute(self, raise_on_error: bool = True) -> Any:
        stack, was_watching = list(self.command_stack), self.watching

        execute: Any = super().execute

        def call() -> Any:
            self.command_stack = list(stack)
            return execute(raise_on_error)

        if was_watching:  # a new connection would watch nothing
            return call()
        return self.owner.guarded([args for args, _ in stack], call)

    def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        call: Any = super().immediate_execute_command
        if self.watching:
            return call(*args, **options)
        return self.owner.guarded((args,), call, args, options)


def _is_harmless(command: tuple[Any, ...]) -> bool:
    name = str(command[0]).upper()
    if name == "SET":
        return not {"NX", "XX", "GET"} & {part for part in command[3:] if isinstance(part, str)}
    return name.partition(" ")[0] in _HARMLESS


class _Checked:
    """A connection that replaces itself where the check before its next command fails."""

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
            # Nothing of the command has been sent.
            self.disconnect()
            self.connect()

    def _send_ping(self: Any) -> None:
        self.send_command("PING", check_health=False)
        # Shorter than the time-out of an answer: the command after the check needs time as well.
        timeout = getattr(self, "socket_connect_timeout", None) or self.socket_timeout
        if not self.can_read(timeout=timeout):
            raise redis.TimeoutError("no answer to PING")
        if self.read_response() not in (b"PONG", "PONG"):
            raise redis.ConnectionError("expected PONG")


class TcpConnection(_Checked, Connection):
    """Over TCP."""


class TlsConnection(_Checked, SSLConnection):
    """Over TLS."""


class SocketConnection(_Checked, UnixDomainSocketConnection):
    """Over a Unix socket."""


class MasterConnection(_Checked, SentinelManagedConnection):
    """To the master that Sentinels name."""


class TlsMasterConnection(_Checked, SentinelManagedSSLConnection):
    """The same over TLS."""
