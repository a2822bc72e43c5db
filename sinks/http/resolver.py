"""Resolves host names so that a name whose servers hang delays no other name.

libcurl and asyncio resolve names in a thread pool, which a few hanging names can fill. Here each
look-up has its own thread, a host has one look-up at a time, and waiting for it has a time-out. The
addresses are checked later, when they are dialled.
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
_LASTS = 60.0
_MAX_KNOWN = 10_000


class Resolver:
    """Resolves host names. Safe to share between threads; a forked process starts without a cache.

    Args:
        timeout: maximum wait for a look-up. Its thread runs on until the system gives up.
    """

    def __init__(self, *, timeout: timedelta) -> None:
        self._timeout = timeout.total_seconds()
        self._lock = Lock()
        self._pid = 0

    def known(self, host: str) -> Addresses | None:
        """The cached addresses of a host; None if it was not looked up in the last minute."""
        if self._pid != current_pid():
            return None
        found = self._known.get(host)
        return found[0] if found is not None and found[1] > monotonic() else None

    async def resolve(self, host: str) -> Addresses:
        """Return the addresses of a host, at least one.

        Raises:
            SinkUnavailable: the name was not found, or the look-up timed out.
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
        """Start a look-up of a host, or return the running look-up."""
        with self._lock:
            if self._pid != current_pid():
                self._start()
            future = self._under_way.get(host)
            if future is None:
                future = self._under_way[host] = Future()
                # From now on it cannot be cancelled: a caller that times out must not end the
                # look-up for the others.
                future.set_running_or_notify_cancel()
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
