"""Resolve host names, so that a name whose servers hang delays no other name.

libcurl and asyncio resolve names in a thread pool, which a few hanging names fill for all hosts.
Here each look-up has its own thread, a host has one look-up at a time, and waiting for it has a
time-out. The resulting addresses are checked when they are dialled.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict, deque
from concurrent.futures import Future
from datetime import timedelta
from threading import Lock, Thread
from time import monotonic

from ...core.errors import SinkUnavailable
from ...core.process import current_pid

Addresses = tuple[str, ...]

#: Maximum number of look-ups at a time; further look-ups wait.
_MAX_THREADS = 256
#: Seconds for which an answer is used; libcurl's own cache has the same.
_LASTS = 60.0
_MAX_KNOWN = 10_000


class Resolver:
    """Resolves host names. Safe to share between threads; starts anew in a forked process.

    Args:
        timeout: of waiting for a look-up. Its thread goes on until the system gives up.
    """

    def __init__(self, *, timeout: timedelta) -> None:
        self._timeout = timeout.total_seconds()
        self._lock = Lock()
        self._pid = 0

    def known(self, host: str) -> Addresses | None:
        """The addresses of a host that was looked up in the last minute; None if unknown."""
        if self._pid != current_pid():
            return None
        found = self._known.get(host)
        return found[0] if found is not None and found[1] > monotonic() else None

    async def resolve(self, host: str) -> Addresses:
        """The addresses of a host, at least one.

        Raises:
            SinkUnavailable: the name was not found, or not in time.
        """
        found = self.known(host)
        if found is not None:
            return found
        try:
            async with asyncio.timeout(self._timeout):
                found = await asyncio.wrap_future(self._look_up(host))
        except TimeoutError:
            raise SinkUnavailable(f"DNS: '{host}' was not looked up in time") from None
        if not found:
            raise SinkUnavailable(f"DNS: '{host}' was not found")
        return found

    def _look_up(self, host: str) -> Future[Addresses]:
        """Look a host up, or join the look-up of it that is under way."""
        with self._lock:
            if self._pid != current_pid():
                self._start()
            future = self._under_way.get(host)
            if future is None:
                future = self._under_way[host] = Future()
                future.set_running_or_notify_cancel()  # who waits no longer cancels it for nobody
                if self._threads < _MAX_THREADS:
                    self._threads += 1
                    Thread(target=self._run, args=(host,), daemon=True).start()
                else:
                    self._queue.append(host)
            return future

    def _start(self) -> None:
        self._pid = current_pid()
        self._known: OrderedDict[str, tuple[Addresses, float]] = OrderedDict()
        self._under_way: dict[str, Future[Addresses]] = {}
        self._queue: deque[str] = deque()
        self._threads = 0

    def _run(self, host: str) -> None:
        following: str | None = host
        while following is not None:
            host, found = following, _addresses(following)
            with self._lock:
                future = self._under_way.pop(host)
                if found:
                    self._known[host] = found, monotonic() + _LASTS
                    self._known.move_to_end(host)
                    if len(self._known) > _MAX_KNOWN:
                        self._known.popitem(last=False)
                following = self._queue.popleft() if self._queue else None
                if following is None:
                    self._threads -= 1
            future.set_result(found)


def _addresses(host: str) -> Addresses:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(where[0]) for *_, where in found))
