"""Resolve host names, so that a name whose servers hang delays no other name.

libcurl resolves names in a thread pool of its own, which a few hanging names fill for all hosts.
Here each look-up has its own thread, a host has one look-up at a time, and waiting for it has a
time-out. The resulting addresses are checked when they are dialled.
"""

from __future__ import annotations

import socket
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import timedelta
from threading import Lock, Thread
from time import monotonic

from ...core.errors import SinkUnavailable
from ...core.later import Later
from ...core.loop import get_loop
from ...core.process import current_pid

Addresses = tuple[str, ...]

#: Maximum number of look-ups at a time; further look-ups wait.
_MAX_THREADS = 256
#: Seconds for which an answer is used; libcurl's own cache has the same.
_LASTS = 60.0
_MAX_KNOWN = 10_000


class LookUp(Later[Addresses]):
    """A look-up of a host, to be awaited: its addresses, at least one."""

    def __init__(self, resolver: Resolver, host: str) -> None:
        self._resolver = resolver
        self._resume: Callable[[], object] = _nobody
        self._found: Addresses = ()
        self._why = f"DNS: '{host}' was not looked up in time"
        self.host = host
        self.deadline = 0.0
        self.is_over = False

    def start(self, resume: Callable[[], object]) -> None:
        self._resume = resume
        self._resolver.begin(self)

    def result(self) -> Addresses:
        if not self._found:
            raise SinkUnavailable(self._why)
        return self._found

    def end(self, found: Addresses) -> None:
        """End it with an answer; no addresses are an answer too."""
        self._found, self._why = found, f"DNS: '{self.host}' was not found"
        self._resume()

    def give_up(self) -> None:
        """End it without an answer: the time is up."""
        self._resume()


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

    def begin(self, look_up: LookUp) -> None:
        """Look a host up, or join the look-up of it that is under way."""
        look_up.deadline = monotonic() + self._timeout
        with self._lock:
            if self._pid != current_pid():
                self._start()
            self._unanswered.append(look_up)
            waiting = self._waiting.setdefault(look_up.host, [])
            waiting.append(look_up)
            if len(waiting) == 1:
                if self._threads < _MAX_THREADS:
                    self._threads += 1
                    Thread(target=self._run, args=(look_up.host,), daemon=True).start()
                else:
                    self._queue.append(look_up.host)
        get_loop().wake()

    def turn(self) -> float | None:
        """Give up look-ups whose time is up; returns the deadline of the next."""
        late: list[LookUp] = []
        with self._lock:
            unanswered, now = self._unanswered, monotonic()
            while unanswered and (unanswered[0].is_over or unanswered[0].deadline <= now):
                look_up = unanswered.popleft()
                if not look_up.is_over:
                    look_up.is_over = True
                    late.append(look_up)
            following = unanswered[0].deadline if unanswered else None
        for look_up in late:
            look_up.give_up()
        return following

    def _start(self) -> None:
        self._pid = current_pid()
        self._known: OrderedDict[str, tuple[Addresses, float]] = OrderedDict()
        self._waiting: dict[str, list[LookUp]] = {}
        self._unanswered: deque[LookUp] = deque()
        self._queue: deque[str] = deque()
        self._threads = 0
        loop = get_loop()
        loop.call(lambda: loop.add(self))

    def _run(self, host: str) -> None:
        following: str | None = host
        while following is not None:
            host, found = following, _addresses(following)
            with self._lock:
                answered = [one for one in self._waiting.pop(host, ()) if not one.is_over]
                for look_up in answered:
                    look_up.is_over = True
                if found:
                    self._known[host] = found, monotonic() + _LASTS
                    self._known.move_to_end(host)
                    if len(self._known) > _MAX_KNOWN:
                        self._known.popitem(last=False)
                following = self._queue.popleft() if self._queue else None
                if following is None:
                    self._threads -= 1
            for look_up in answered:
                look_up.end(found)


def _addresses(host: str) -> Addresses:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(where[0]) for *_, where in found))


def _nobody() -> None:
    """Placeholder until somebody waits."""
