"""A connection pool whose callers wait, first come first served, for a free connection."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import Any

import redis
from redis.connection import ConnectionPool


class NoConnectionFree(redis.ConnectionError):
    """All connections that ``max_connections`` allows were in use for too long."""


class _FairSemaphore:
    """A semaphore that serves its callers in order.

    With Python's semaphore, a thread that releases and acquires in a loop, as consumers do, can
    overtake waiting threads for ever.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = Lock()
        self._waiting: deque[Lock] = deque()

    def take(self, timeout: float) -> bool:
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            turn = Lock()
            turn.acquire()
            self._waiting.append(turn)
        if turn.acquire(timeout=timeout):
            return True
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
                return False
        return True  # given between the time-out and the lock

    def give(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1


class _Bounded:
    """A pool whose callers wait when all connections are in use."""

    bound: int | None = None
    wait: float = 0.0

    def reset(self: Any) -> None:
        # Also called in a forked child, which must not use the parent's connections.
        super().reset()  # type: ignore[misc]
        self._turns = None if self.bound is None else _FairSemaphore(self.bound)
        self._taken: set[Any] = set()

    def get_connection(self: Any, *args: Any, **options: Any) -> Any:
        if self.bound is None:
            return super().get_connection(*args, **options)  # type: ignore[misc]
        self._checkpid()
        turns = self._turns
        if not turns.take(self.wait):
            raise NoConnectionFree(
                f"all {self.bound} connections were in use for {self.wait:g} s; "
                "raise max_connections"
            )
        try:
            connection = super().get_connection(*args, **options)  # type: ignore[misc]
        except BaseException:
            turns.give()
            raise
        self._taken.add(connection)
        return connection

    def release(self: Any, connection: Any) -> None:
        super().release(connection)  # type: ignore[misc]
        # redis-py also releases connections that it failed to hand out.
        if self.bound is not None and connection in self._taken:
            self._taken.discard(connection)
            self._turns.give()


def bounded(kind: type[ConnectionPool], bound: int | None, wait: float) -> type[ConnectionPool]:
    """Make a pool class with at most ``bound`` connections.

    Args:
        kind: the base class.
        bound: maximum number of connections; None for no limit.
        wait: seconds that a caller waits for a free connection.
    """
    return type("Pool", (_Bounded, kind), {"bound": bound, "wait": wait})
