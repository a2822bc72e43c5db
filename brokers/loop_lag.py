"""Warns when the event loop of async actors did not run for more than a second.

Jobs that only waited meanwhile may exceed their time limits or time-outs, and their own log lines
cannot say that another job was the cause.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

logger = logging.getLogger("formrelay.brokers")

#: Seconds without the event loop from which a line is written.
_BLOCKED_SECONDS = 1.0
#: Maximum number of actors in a line.
_MAX_ACTORS = 10


class LoopLag:
    """Compares when a timer of the event loop was due with the time at which it runs.

    Attributes:
        actors: the names of the actors that had jobs in the event loop since :meth:`expect`.
    """

    def __init__(self) -> None:
        self._due = 0.0
        self.actors: set[str] = set()

    def expect(self, seconds: float, actors: Iterable[str]) -> None:
        """Note that :meth:`check` is to be called in ``seconds``.

        Args:
            actors: the names of the actors that have running jobs.
        """
        self._due = time.monotonic() + seconds
        self.actors = set(actors)

    def check(self) -> None:
        """Warn if the timer is late."""
        late = time.monotonic() - self._due
        if late < _BLOCKED_SECONDS:
            return
        logger.warning(
            "the event loop was blocked: a job in it computed or waited without await, or the "
            "process was stopped",
            extra={"seconds": round(late, 1), "actors": sorted(self.actors)[:_MAX_ACTORS]},
        )
