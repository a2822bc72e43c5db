"""Runs webhook requests in an asyncio event loop, through libcurl's multi interface.

libcurl's sockets are registered with a separate selector, and the event loop watches only that
selector. libcurl changes the events of its sockets four times per request: with ``add_reader`` and
``add_writer``, these changes would take a tenth of the CPU time of a request (docs/adr/0011).
"""

from __future__ import annotations

import asyncio
import select
import selectors
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Hashable
from math import inf
from typing import Any, TypeVar

import pycurl

from .curl import Handle, never_free_in_child

T = TypeVar("T")

#: Resolution of libcurl's timer, in seconds.
_TICK = 0.001


class Transfers:
    """Sends requests in any event loop, also in a forked process.

    Args:
        make_handle: makes a handle with the options that all requests share.
        max_kept: maximum number of connections kept open for further requests.
    """

    def __init__(self, make_handle: Callable[[], Handle], *, max_kept: int) -> None:
        self._make_handle = make_handle
        self._max_kept = max_kept
        self._lock = threading.Lock()
        self._drivers: dict[asyncio.AbstractEventLoop, _Driver] = {}

    def send(
        self,
        prepare: Callable[[Handle], None],
        finish: Callable[[Handle, int], T],
        *,
        destination: Hashable = None,
        needs_new: bool = False,
    ) -> Coroutine[Any, Any, T]:
        """Send a request in the running event loop.

        Args:
            prepare: sets the options of this request on a handle.
            finish: returns the result, given a handle and libcurl's error code (0: no error), or
                raises an error.
            destination: equal for all requests that may share a connection.
            needs_new: whether to use a new connection. A request without a body needs it: libcurl
                would repeat the request if a kept connection breaks.
        """
        loop = asyncio.get_running_loop()
        driver = self._drivers.get(loop)
        if driver is None:
            with self._lock:
                for closed in [other for other in self._drivers if other.is_closed()]:
                    self._drivers.pop(closed).close()
                driver = self._drivers[loop] = _Driver(loop, self._make_handle, self._max_kept)
        return driver.send(prepare, finish, destination, needs_new)


class _Driver:
    """Runs libcurl's multi interface in one event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, make_handle: Callable[[], Handle], max_kept: int
    ) -> None:
        self._loop = loop
        self._make_handle = make_handle
        self._free: list[Handle] = []
        #: The running requests: destination, and a future for libcurl's error code.
        self._active: dict[Any, tuple[Hashable, asyncio.Future[int]]] = {}
        #: When libcurl wants to be called, and when the timer fires; loop time.
        self._due = self._timer_at = inf
        self._timer: asyncio.TimerHandle | None = None
        self._is_call_scheduled = False
        self._kept = KeptConnections()
        self._selector = selectors.DefaultSelector()
        #: Sockets of the running requests.
        self._watched: set[int] = set()
        self._multi = pycurl.CurlMulti()
        never_free_in_child(self._multi)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_new_due)
        self._multi.setopt(pycurl.M_MAXCONNECTS, max_kept)
        # No two requests on one HTTP/2 connection: they would fail together.
        self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_NOTHING)
        loop.add_reader(self._selector.fileno(), self._on_events)

    def close(self) -> None:
        """Close the connections; the event loop must be closed."""
        self._multi.close()
        self._selector.close()

    async def send(
        self,
        prepare: Callable[[Handle], None],
        finish: Callable[[Handle, int], T],
        destination: Hashable,
        needs_new: bool,
    ) -> T:
        handle = self._free.pop() if self._free else self._make_handle()
        handle.callbacks.clear()
        prepare(handle)
        needs_new = needs_new or self._kept.has_stale(destination, self._watched)
        handle.curl.setopt(pycurl.FRESH_CONNECT, needs_new)
        ended = self._loop.create_future()
        self._multi.add_handle(handle.curl)
        self._active[handle.curl] = destination, ended
        try:
            return finish(handle, await ended)
        finally:
            if self._active.pop(handle.curl, None):  # cancelled: libcurl closes the connection
                self._multi.remove_handle(handle.curl)
            self._free.append(handle)

    def _end_finished(self) -> None:
        """End the requests that libcurl has finished."""
        remaining = 1
        while remaining:
            remaining, succeeded, failed = self._multi.info_read()
            results = [(curl, 0) for curl in succeeded] + [(curl, code) for curl, code, _ in failed]
            for curl, code in results:
                destination, ended = self._active.pop(curl)
                socket = curl.getinfo(pycurl.ACTIVESOCKET)
                if socket >= 0:
                    self._kept.add(destination, socket)
                self._multi.remove_handle(curl)
                if not ended.done():  # done if its task was cancelled but has not run yet
                    ended.set_result(code)

    def _on_new_due(self, milliseconds: int) -> None:
        """Store when libcurl wants to be called; a negative number means never."""
        self._due = inf if milliseconds < 0 else self._loop.time() + milliseconds / 1000
        if milliseconds == 0:
            if not self._is_call_scheduled:
                self._is_call_scheduled = True
                self._loop.call_soon(self._on_due)
        elif self._due < self._timer_at:
            self._set_timer()

    def _set_timer(self) -> None:
        # Callers keep a timer that fires earlier: libcurl changes the time twice per request.
        # That timer is set again when it fires.
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._due
        self._timer = self._loop.call_at(self._due, self._on_timer) if self._due < inf else None

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, inf
        self._on_due()

    def _on_due(self) -> None:
        """Call libcurl if the time has come, and set the timer."""
        self._is_call_scheduled = False
        now = self._loop.time()
        if self._due <= now:
            # libcurl rounds its time down to whole milliseconds. If this call is too early for it,
            # libcurl sets no next time, so call it again after a tick.
            self._due = now + _TICK
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
            self._end_finished()
        if self._timer is None or self._due < self._timer_at:
            self._set_timer()

    def _on_socket(self, event: int, descriptor: int, _multi: Any, _data: Any) -> None:
        # The event numbers of libcurl and of the selector are the same.
        if event in (pycurl.POLL_REMOVE, pycurl.POLL_NONE):
            if descriptor in self._watched:
                self._watched.remove(descriptor)
                self._selector.unregister(descriptor)
        elif descriptor in self._watched:
            self._selector.modify(descriptor, event)
        else:
            self._watched.add(descriptor)
            self._selector.register(descriptor, event)

    def _on_events(self) -> None:
        for key, events in self._selector.select(0):
            self._multi.socket_action(key.fd, events)
        self._end_finished()


class KeptConnections:
    """Sockets of connections that libcurl may use again, by destination.

    libcurl does not report when it closes a socket, so a few of these sockets may be closed or
    belong to something else by now. While such a number is readable, requests to its destination
    open new connections. As for :func:`.curl.is_stale`, a socket with unread data counts as closed.
    """

    def __init__(self) -> None:
        self._destinations: dict[int, Hashable] = {}
        self._sockets: defaultdict[Hashable, set[int]] = defaultdict(set)
        #: By destination. Kept, because registering all sockets takes longer than the poll.
        self._polls: defaultdict[Hashable, Any] = defaultdict(select.poll)

    def add(self, destination: Hashable, socket: int) -> None:
        """Record that a request to ``destination`` used ``socket``."""
        if socket in self._sockets.get(destination, ()):
            return
        self._forget(socket)
        self._destinations[socket] = destination
        self._sockets[destination].add(socket)
        self._polls[destination].register(socket, select.POLLIN)

    def has_stale(self, destination: Hashable, in_use: Collection[int]) -> bool:
        """Whether the receiver has closed a kept connection to ``destination``.

        Args:
            in_use: sockets of the running requests, which are not checked.
        """
        if destination not in self._polls:
            return False
        has_stale = False
        for socket, event in self._polls[destination].poll(0):
            if event & select.POLLNVAL:
                self._forget(socket)
            elif socket not in in_use:
                has_stale = True
        return has_stale

    def _forget(self, socket: int) -> None:
        if socket not in self._destinations:
            return
        destination = self._destinations.pop(socket)
        self._sockets[destination].discard(socket)
        self._polls[destination].unregister(socket)
        if not self._sockets[destination]:
            del self._sockets[destination], self._polls[destination]
