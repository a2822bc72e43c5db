"""All webhook requests of a process, driven by its loop through libcurl's multi interface.

A thread for each request would wait for Python's lock at each of libcurl's callbacks. Here callers
leave their requests in an inbox, and one thread does the waiting for all of them.
"""

from __future__ import annotations

import logging
import select
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Hashable
from time import monotonic
from typing import Any, TypeVar, cast

import pycurl

from ...core.later import Later
from ...core.loop import Loop, get_loop
from ...core.process import current_pid
from .curl import Handle, is_stale, leave_to_parent

T = TypeVar("T")

logger = logging.getLogger("formrelay")

#: Seconds after which a waiting request no longer counts against the limit: it costs no more than
#: a socket.
ASIDE_AFTER = 1.0
#: Seconds of one tick of libcurl's clock.
_TICK = 0.001
#: Maximum number of requests under way, waiting requests included, as a multiple of the limit.
_MAX_ASIDE = 10


class Transfer(Later[T]):
    """One request, to be awaited.

    Args:
        transfers: sends it.
        prepare: sets the options of this request on a handle.
        finish: makes the result of a handle and libcurl's error code (0: none), or raises; called
            in the loop's thread.
        destination: equal for all requests that may share a connection.
        needs_new: use a new connection. A request without a body needs one: libcurl would repeat
            it where a kept connection breaks.
    """

    def __init__(
        self,
        transfers: Transfers,
        prepare: Callable[[Handle], None],
        finish: Callable[[Handle, int], T],
        *,
        destination: Hashable = None,
        needs_new: bool = False,
    ) -> None:
        self._transfers = transfers
        self.destination, self.needs_new = destination, needs_new
        self.prepare = prepare
        self._finish = finish
        self._found: T | None = None
        self._error: BaseException | None = None
        self._resume: Callable[[], object] = _nobody
        self.began = 0.0
        self.is_aside = False
        self.is_over = False

    def start(self, resume: Callable[[], object]) -> None:
        self._resume = resume
        self._transfers.begin(self)

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return cast(T, self._found)

    def end(self, handle: Handle, code: int) -> None:
        """Keep the result or the error, and resume the waiting coroutine."""
        self.is_over = True
        try:
            self._found = self._finish(handle, code)
        except BaseException as error:
            self._error = error
        self._resume()

    def fail(self, error: BaseException) -> None:
        """End it with an error, before libcurl began it."""
        self.is_over = True
        self._error = error
        self._resume()


class Transfers:
    """Sends requests. Safe to share between threads; starts anew in a forked process.

    Args:
        make_handle: makes a handle with the options that all requests share.
        limit: requests under way at a time, not counting requests that have waited for their
            receiver for longer than :data:`ASIDE_AFTER`.
    """

    def __init__(self, make_handle: Callable[[], Handle], *, limit: int) -> None:
        self._make_handle = make_handle
        self._limit = limit
        self._lock = threading.Lock()
        self._driver: _Driver | None = None

    def begin(self, transfer: Transfer[Any]) -> None:
        """Send a request as soon as the limit allows it."""
        driver = self._driver
        if driver is None or driver.pid != current_pid():
            driver = self._new_driver()
        driver.take(transfer)

    def _new_driver(self) -> _Driver:
        with self._lock:
            driver = self._driver
            if driver is None or driver.pid != current_pid():
                driver = self._driver = _Driver(get_loop(), self._make_handle, self._limit)
            return driver


class _Driver:
    """Drives libcurl in the loop's thread; only :meth:`take` may be called in another thread."""

    def __init__(self, loop: Loop, make_handle: Callable[[], Handle], limit: int) -> None:
        self.pid = current_pid()
        self._loop = loop
        self._make_handle = make_handle
        self._limit, self._most = limit, _MAX_ASIDE * limit
        self._inbox: deque[Transfer[Any]] = deque()
        self._free: list[Handle] = []
        #: Requests that count against the limit, in the order in which they began.
        self._young: deque[Transfer[Any]] = deque()
        self._active: dict[Any, tuple[Handle, Transfer[Any]]] = {}
        self._aside = 0
        self._due: float | None = None
        self._kept = KeptConnections()
        #: Sockets that libcurl waits for.
        self._in_use: set[int] = set()
        self._multi = pycurl.CurlMulti()
        leave_to_parent(self._multi)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        # Idle connections that are kept for the next request to the same host.
        self._multi.setopt(pycurl.M_MAXCONNECTS, max(16, 2 * limit))
        loop.call(lambda: loop.add(self))

    def take(self, transfer: Transfer[Any]) -> None:
        """Put a request into the inbox of the loop; called by any thread."""
        self._inbox.append(transfer)
        self._loop.wake()

    def turn(self) -> float | None:
        """Begin requests as far as the limit allows, and end the finished ones."""
        while True:
            self._begin_some()
            if self._due is not None and self._due <= monotonic():
                # libcurl sets the next time, but none if it is called a moment too soon: it gives
                # whole milliseconds and means a little more.
                self._due = monotonic() + _TICK
                self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
            if not self._end_some() or not self._inbox:
                return self._due

    def _begin_some(self) -> None:
        now = monotonic()
        while self._young and (self._young[0].is_over or self._young[0].began < now - ASIDE_AFTER):
            transfer = self._young.popleft()
            if not transfer.is_over:
                transfer.is_aside = True
                self._aside += 1
        while self._inbox and self._has_room():
            transfer = self._inbox.popleft()
            try:
                handle = self._free.pop() if self._free else self._make_handle()
                handle.callbacks.clear()
                transfer.prepare(handle)
                needs_new = transfer.needs_new or self._kept.has_stale(
                    transfer.destination, self._in_use
                )
                handle.curl.setopt(pycurl.FRESH_CONNECT, needs_new)
                self._multi.add_handle(handle.curl)
            except BaseException as error:
                transfer.fail(error)
                continue
            transfer.began = now
            self._young.append(transfer)
            self._active[handle.curl] = handle, transfer

    def _has_room(self) -> bool:
        active = len(self._active)
        return active - self._aside < self._limit and active < self._most

    def _end_some(self) -> int:
        count, left = 0, 1
        while left:
            left, well, badly = self._multi.info_read()
            ended = [*((curl, 0) for curl in well), *((curl, code) for curl, code, _ in badly)]
            for curl, code in ended:
                try:
                    self._end(curl, code)
                except Exception as error:  # libcurl does not report the others a second time
                    logger.critical("a request was not ended cleanly", exc_info=error)
            count += len(ended)
        return count

    def _end(self, curl: Any, code: int) -> None:
        handle, transfer = self._active.pop(curl)
        self._aside -= transfer.is_aside
        socket = curl.getinfo(pycurl.ACTIVESOCKET)
        if socket >= 0:
            self._kept.add(transfer.destination, socket)
        transfer.end(handle, code)
        self._multi.remove_handle(curl)
        self._free.append(handle)

    def _on_timer(self, milliseconds: int) -> None:
        self._due = None if milliseconds < 0 else monotonic() + milliseconds / 1000

    def _on_socket(self, what: int, descriptor: int, _multi: Any, _data: Any) -> None:
        if what == pycurl.POLL_REMOVE:
            self._in_use.discard(descriptor)
            self._loop.forget(descriptor)
        else:
            self._in_use.add(descriptor)
            self._loop.watch(descriptor, _POLL_FLAGS.get(what, 0), self._on_event)

    def _on_event(self, descriptor: int, event: int) -> None:
        self._multi.socket_action(descriptor, _curl_flags(event))


class KeptConnections:
    """The sockets of the connections that libcurl may use again, by destination.

    libcurl does not say when it closes a socket, so a few listed sockets may be closed or lead
    elsewhere by now. At worst they cost a new connection.
    """

    def __init__(self) -> None:
        self._destinations: dict[int, Hashable] = {}
        self._sockets: defaultdict[Hashable, set[int]] = defaultdict(set)

    def add(self, destination: Hashable, socket: int) -> None:
        """Note that a request to ``destination`` went over ``socket``."""
        known = self._destinations.get(socket)
        if known == destination:
            return
        if known is not None:
            self._sockets[known].discard(socket)
            if not self._sockets[known]:
                del self._sockets[known]
        self._destinations[socket] = destination
        self._sockets[destination].add(socket)

    def has_stale(self, destination: Hashable, in_use: Collection[int]) -> bool:
        """Whether a connection to ``destination`` has been closed by the receiver.

        Args:
            in_use: sockets of the requests under way.
        """
        sockets = self._sockets.get(destination)
        return bool(sockets) and is_stale([one for one in sockets or () if one not in in_use])


_POLL_FLAGS = {
    pycurl.POLL_IN: select.POLLIN,
    pycurl.POLL_OUT: select.POLLOUT,
    pycurl.POLL_INOUT: select.POLLIN | select.POLLOUT,
}


def _curl_flags(event: int) -> int:
    found = 0
    if event & (select.POLLIN | select.POLLHUP):
        found |= pycurl.CSELECT_IN
    if event & select.POLLOUT:
        found |= pycurl.CSELECT_OUT
    if event & (select.POLLERR | select.POLLNVAL):
        found |= pycurl.CSELECT_ERR
    return found


def _nobody() -> None:
    """Placeholder until somebody waits."""
