"""One thread of a process that waits for everything at once: sockets, times, other threads.

Not asyncio: a delivery turns its sockets on and off four times, and the bookkeeping of a
selector alone would cost as much as the rest of it.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

from .process import current_pid

logger = logging.getLogger("formrelay")

#: The thread looks around after so many seconds at the latest.
_LONGEST_SLEEP = 1.0
#: After so many calls it looks at the sockets again.
_CALLS_A_TURN = 32
#: First and longest back-off of a part or a socket whose function raises, in seconds; it doubles.
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 10.0


class Part(Protocol):
    """Somebody who works in the loop's thread."""

    def turn(self) -> float | None:
        """Do what is to be done now; the monotonic second of what comes next, None for nothing."""


class _Called:
    """A function that the loop calls again and again; it backs off while it raises.

    Attributes:
        do: the function of a part, or of a watched descriptor.
        event: of a descriptor that is watched, the events of poll(2).
        resumes_at: the monotonic second until which it is not to be called.
    """

    __slots__ = ("do", "event", "failures", "resumes_at")

    def __init__(self, do: Callable[..., Any], event: int = 0) -> None:
        self.do = do
        self.event = event
        self.failures = 0
        self.resumes_at = 0.0

    def failed(self, error: BaseException) -> float:
        """Log what it has raised, once per back-off interval; when it is to be called again."""
        wait = min(_FIRST_BACKOFF * 2.0 ** min(self.failures, 20), _LONGEST_BACKOFF)
        self.failures += 1
        self.resumes_at = monotonic() + wait
        logger.critical(
            "a part of the event loop failed; retrying it after a back-off",
            extra={"part": getattr(self.do, "__qualname__", "?"), "retry_in_s": wait},
            exc_info=error,
        )
        return self.resumes_at


class Loop:
    """See the module. :meth:`call` and :meth:`wake` are for any thread, the rest for its own.

    Parts and sockets are isolated: one whose function raises is called again after a back-off,
    and holds up no other.
    """

    def __init__(self) -> None:
        self._calls: deque[Callable[[], object]] = deque()
        self._parts: list[_Called] = []
        self._watched: dict[int, _Called] = {}
        #: Descriptors whose function has raised: not polled until its back-off is over.
        self._muted: dict[int, _Called] = {}
        self._poll = select.poll()
        self._is_asleep = False
        self._bell, self._ring = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._ring, False)
        self.watch(self._bell, select.POLLIN, lambda descriptor, _event: os.read(descriptor, 4096))
        threading.Thread(target=self._run, name="formrelay-loop", daemon=True).start()

    def call(self, function: Callable[[], object]) -> None:
        """Have a function called in the loop's thread, soon, in the order of the calls."""
        self._calls.append(function)
        self.wake()

    def wake(self) -> None:
        """There is something to do."""
        if self._is_asleep:
            self._is_asleep = False  # one ring is enough
            with suppress(BlockingIOError):
                os.write(self._ring, b"!")

    def add(self, part: Part) -> None:
        """Give ``part`` its turn from now on."""
        self._parts.append(_Called(part.turn))

    def watch(self, descriptor: int, event: int, tell: Callable[[int, int], object]) -> None:
        """Call ``tell(descriptor, event)`` whenever there is an event, of poll(2), on it."""
        watch = self._watched.get(descriptor)
        if watch is None or watch.do != tell:
            watch = self._watched[descriptor] = _Called(tell)
            self._muted.pop(descriptor, None)
        watch.event = event
        if descriptor not in self._muted:
            self._poll.register(descriptor, event)

    def forget(self, descriptor: int) -> None:
        """Watch a descriptor no more."""
        if self._watched.pop(descriptor, None) is None:
            return
        if self._muted.pop(descriptor, None) is None:
            self._poll.unregister(descriptor)

    def _run(self) -> None:
        while True:
            try:
                self._turn()
            except BaseException as error:  # not one of a part: an interrupt between two of them
                logger.critical("the loop failed, and goes on", exc_info=error)

    def _turn(self) -> None:
        calls = self._calls
        for _ in range(min(len(calls), _CALLS_A_TURN)):
            try:
                calls.popleft()()
            except BaseException as error:
                logger.critical("a call of the loop failed", exc_info=error)
        now = monotonic()
        due = now + _LONGEST_SLEEP
        for part in self._parts:
            wanted: float | None = part.resumes_at
            if part.resumes_at <= now:
                try:
                    wanted = part.do()
                    part.failures = 0
                except BaseException as error:
                    wanted = part.failed(error)
            if wanted is not None and wanted < due:
                due = wanted
        if self._muted:
            due = min(due, self._unmute(now))
        self._is_asleep = True
        # What was called for just before the flag went up has rung no bell.
        seconds = 0.0 if calls else max(0.0, due - monotonic())
        events = self._poll.poll(seconds * 1000)
        self._is_asleep = False
        for descriptor, event in events:
            watch = self._watched.get(descriptor)
            if watch is None:  # somebody before it may have had it forgotten
                continue
            try:
                watch.do(descriptor, event)
                watch.failures = 0
            except BaseException as error:
                watch.failed(error)
                if self._watched.get(descriptor) is watch:
                    self._muted[descriptor] = watch
                    self._poll.unregister(descriptor)

    def _unmute(self, now: float) -> float:
        """Poll those again whose back-off is over; when the next one's is."""
        for descriptor, watch in list(self._muted.items()):
            if watch.resumes_at <= now:
                del self._muted[descriptor]
                self._poll.register(descriptor, watch.event)
        return min([watch.resumes_at for watch in self._muted.values()], default=now + 1)


_lock = threading.Lock()
_loops: dict[int, Loop] = {}


def get_loop() -> Loop:
    """This process's loop, started at the first call.

    The parent's, in a forked process, has no thread there; it is kept as it is, so that
    nothing of it is freed.
    """
    pid = current_pid()
    loop = _loops.get(pid)
    if loop is None:
        with _lock:
            loop = _loops.get(pid)
            if loop is None:
                loop = _loops[pid] = Loop()
    return loop
