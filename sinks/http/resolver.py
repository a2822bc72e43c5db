"""Resolves host names so that a name whose servers hang delays no other name.

libcurl and asyncio resolve names in a thread pool, which a few hanging names can fill. Here each
look-up has its own thread, each host has one look-up at a time, and the wait has a time-out. The
addresses are checked later, when libcurl connects.
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
#: Seconds for which the addresses of a host are cached, as in libcurl's own cache.
_CACHE_SECONDS = 60.0
_MAX_CACHED = 10_000


class Resolver:
    """Resolves host names. Safe to share between threads; a forked process starts without a cache.

    Args:
        timeout: maximum wait for a look-up. Its thread continues until the system gives up.
    """

    def __init__(self, *, timeout: timedelta) -> None:
        self._timeout = timeout.total_seconds()
        self._lock = Lock()
        self._pid = 0

    def cached(self, host: str) -> Addresses | None:
        """The cached addresses of a host; None if they are not cached or have expired."""
        if self._pid != current_pid():
            return None
        addresses, expires_at = self._cache.get(host, ((), 0.0))
        return addresses if expires_at > monotonic() else None

    async def resolve(self, host: str) -> Addresses:
        """Return the addresses of a host, at least one.

        Raises:
            SinkUnavailable: the name was not found, or the look-up timed out.
        """
        found = self.cached(host)
        if found is not None:
            return found
        try:
            async with asyncio.timeout(self._timeout):
                found = await asyncio.wrap_future(self._look_up(host))
        except TimeoutError:
            raise SinkUnavailable(f"DNS: '{host}' could not be resolved in time") from None
        if not found:
            raise SinkUnavailable(f"DNS: '{host}' was not found")
        return found

    def _look_up(self, host: str) -> Future[Addresses]:
        """Start a look-up of a host, or return the running look-up."""
        with self._lock:
            if self._pid != current_pid():
                self._reset()
            future = self._running.get(host)
            if future is None:
                future = self._running[host] = Future()
                # So it cannot be cancelled: a caller that times out must not end the look-up for
                # other callers.
                future.set_running_or_notify_cancel()
                if self._threads < _MAX_THREADS:
                    self._threads += 1
                    Thread(target=self._run, args=(host,), daemon=True).start()
                else:
                    self._queue.append(host)
            return future

    def _reset(self) -> None:
        self._pid = current_pid()
        self._cache: OrderedDict[str, tuple[Addresses, float]] = OrderedDict()
        self._running: dict[str, Future[Addresses]] = {}
        self._queue: deque[str] = deque()
        self._threads = 0

    def _run(self, host: str) -> None:
        """Look up a host, then the hosts that wait for a thread."""
        next_host: str | None = host
        while next_host is not None:
            host, addresses = next_host, _addresses(next_host)
            with self._lock:
                future = self._running.pop(host)
                if addresses:
                    self._cache[host] = addresses, monotonic() + _CACHE_SECONDS
                    self._cache.move_to_end(host)
                    if len(self._cache) > _MAX_CACHED:
                        self._cache.popitem(last=False)
                next_host = self._queue.popleft() if self._queue else None
                if next_host is None:
                    self._threads -= 1
            future.set_result(addresses)


def _addresses(host: str) -> Addresses:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
