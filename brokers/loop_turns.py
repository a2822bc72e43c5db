"""Lets other threads compute in turn while the event loop keeps the interpreter busy."""

from __future__ import annotations

import time

from ..core.compute_turns import TURNS

#: Seconds between two turns.
_INTERVAL_SECONDS = 0.002
#: CPU time of the loop's thread divided by the elapsed time, from which it counts as busy. Without
#: turns, other threads that compute get a part of the time.
_BUSY_SHARE = 0.5


class LoopTurns:
    """The turns that the thread of an event loop gives (:mod:`formrelay.core.compute_turns`)."""

    def __init__(self) -> None:
        #: Monotonic time and CPU time of this thread at the last turn, in seconds.
        self._last = self._last_cpu = 0.0

    def give_if_busy(self) -> None:
        """Give turns if this thread is busy, every two milliseconds; called after each attempt.

        Blocks the event loop for the turns, ten milliseconds at most.
        """
        passed = time.monotonic() - self._last
        if passed < _INTERVAL_SECONDS:
            return
        if time.thread_time() - self._last_cpu > passed * _BUSY_SHARE:
            TURNS.begin()
            TURNS.give()
        else:
            TURNS.stop()
        self._last, self._last_cpu = time.monotonic(), time.thread_time()
