"""A pool of connections whose callers wait for a free one, in the order of their coming."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import Any

import redis
from redis.connection import ConnectionPool


class NoConnectionFree(redis.ConnectionError):
    """All connections that max_connections allows were in use for too long."""


class _Turns:
    """A semaphore that serves its callers in order.

    Python's own lets a thread that gives back and takes again, as consumers do, go before those
    that wait.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = Lock()
        self._line: deque[Lock] = deque()

    def take(self, timeout: float) -> bool:
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            turn = Lock()
            turn.acquire()
            self._line.append(turn)
        if turn.acquire(timeout=timeout):
            return True
        with self._lock:
            if turn in self._line:
                self._line.remove(turn)
                return False
        return True  # it came in the last moment

    def give(self) -> None:
        with self._lock:
            if self._line:
                self._line.popleft().release()
            else:
                self._free += 1


class _Bounded:
    """A pool that lets callers wait for a connection where all that it may have are in use."""

    bound: int | None = None
    wait: float = 0.0

    def reset(self: Any) -> None:
        # Also called in a forked child, which uses none of its parent's connections.
        super().reset()  # type: ignore[misc]
        self._turns = None if self.bound is None else _Turns(self.bound)
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
        # redis-py also gives back what it could not hand out.
        if self.bound is not None and connection in self._taken:
            self._taken.discard(connection)
            self._turns.give()


def bounded(kind: type[ConnectionPool], bound: int | None, wait: float) -> type[ConnectionPool]:
    """A pool class that has no more than ``bound`` connections (None: as many as are needed).

    Args:
        wait: seconds for which a caller waits for one.
    """
    return type("Pool", (_Bounded, kind), {"bound": bound, "wait": wait})
