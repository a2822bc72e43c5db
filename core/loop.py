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
from typing import Protocol

from .process import current_pid

logger = logging.getLogger("formrelay")

#: The thread looks around after so many seconds at the latest.
_LONGEST_SLEEP = 1.0
#: After so many calls it looks at the sockets again.
_CALLS_A_TURN = 32


class Part(Protocol):
    """Somebody who works in the loop's thread."""

    def turn(self) -> float | None:
        """Do what is to be done now; the monotonic second of what comes next, None for nothing."""


class Loop:
    """See the module. :meth:`call` and :meth:`wake` are for any thread, the rest for its own."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], object]] = deque()
        self._parts: list[Part] = []
        self._watched: dict[int, Callable[[int, int], object]] = {}
        self._poll = select.poll()
        self._is_asleep = False
        self._bell, self._ring = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._ring, False)
        self._poll.register(self._bell, select.POLLIN)
        self._watched[self._bell] = lambda descriptor, _event: os.read(descriptor, 4096)
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
        self._parts.append(part)

    def watch(self, descriptor: int, event: int, tell: Callable[[int, int], object]) -> None:
        """Call ``tell(descriptor, event)`` whenever there is an event, of poll(2), on it."""
        self._watched[descriptor] = tell
        self._poll.register(descriptor, event)

    def forget(self, descriptor: int) -> None:
        """Watch a descriptor no more."""
        if self._watched.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def _run(self) -> None:
        while True:
            try:
                self._turn()
            except BaseException as error:  # an interrupt of Dramatiq's that came late, say
                logger.critical("the loop failed, and goes on", exc_info=error)

    def _turn(self) -> None:
        calls = self._calls
        for _ in range(min(len(calls), _CALLS_A_TURN)):
            try:
                calls.popleft()()
            except BaseException as error:
                logger.critical("a call of the loop failed", exc_info=error)
        due = monotonic() + _LONGEST_SLEEP
        for part in self._parts:
            wanted = part.turn()
            if wanted is not None:
                due = min(due, wanted)
        self._is_asleep = True
        # What was called for just before the flag went up has rung no bell.
        seconds = 0.0 if calls else max(0.0, due - monotonic())
        events = self._poll.poll(seconds * 1000)
        self._is_asleep = False
        for descriptor, event in events:
            tell = self._watched.get(descriptor)
            if tell is not None:  # somebody before it may have had it forgotten
                tell(descriptor, event)


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
