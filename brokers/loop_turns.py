"""Lets other threads compute in turn while the event loop keeps the interpreter busy."""

from __future__ import annotations

import time

from ..core.compute_turns import TURNS

#: Seconds between two turns.
_EVERY = 0.002
#: Share of the time that the process computes, from which the interpreter counts as busy.
_BUSY_SHARE = 0.7


class LoopTurns:
    """The turns that the thread of an event loop gives (:mod:`formrelay.core.compute_turns`)."""

    def __init__(self) -> None:
        self._looked_at = self._computed = 0.0

    def look(self) -> None:
        """Give turns if it is time to, and if the threads compete; called after each attempt."""
        now = time.monotonic()
        passed = now - self._looked_at
        if passed < _EVERY:
            return
        computed = time.process_time()
        if computed - self._computed > passed * _BUSY_SHARE:
            TURNS.begin()
            TURNS.give()
        else:
            TURNS.stop()
        self._looked_at, self._computed = time.monotonic(), time.process_time()
