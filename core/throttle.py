"""How much an outside system takes at present, for those that fetch work for it.

A circuit breaker (closed, open, half-open) whose middle state lets one message through, and
which remembers that a system that is busy wants fewer and larger batches.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from threading import Lock

from .clock import SYSTEM_CLOCK, Clock
from .errors import (
    PartsFailed,
    SinkBusy,
    SinkPermanent,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)

logger = logging.getLogger("formrelay.workers")

#: Left alone for so long at first, then twice as long each time, up to the second.
_FIRST, _LONGEST = timedelta(seconds=1), timedelta(seconds=30)
#: Batches grow to so many times their size and wait, and shrink by half after so many that
#: went well.
_MOST_STRETCH = 8
_CALM = 20


class Throttle:
    """The state of one outside system, as this process has found it. Safe across threads.

    Args:
        sink: its name in log lines.
    """

    def __init__(self, sink: str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.sink = sink
        #: How many times as large, and as long awaited, batches are to be.
        self.stretch = 1
        #: Whether it failed last: consumers look here first, once a message.
        self.is_tripped = False
        self._clock = clock
        self._lock = Lock()
        self._failures = 0
        self._held_until = 0.0
        self._calm = 0

    @property
    def allowance(self) -> int | None:
        """How many messages may be in hand: None for any number, 0 for none, 1 to find out."""
        if not self.is_tripped:
            return None
        return 0 if self.held_for() else 1

    def held_for(self) -> timedelta:
        """How long nothing is to be tried; zero for not at all."""
        if not self.is_tripped:
            return timedelta(0)
        return timedelta(seconds=max(0.0, self._held_until - self._clock.monotonic()))

    def note(self, error: BaseException | None, *, parts: int = 1) -> None:
        """Learn from the end of an attempt.

        Args:
            error: None: it worked.
            parts: how many messages were tried.
        """
        told = [*error.failures.values()] if isinstance(error, PartsFailed) else [error]
        for one in told:
            if isinstance(one, SinkUnavailable | SinkBusy | SinkUnready):
                self._failed(one)
                return
        # Only who has had an answer knows that the system works: what was refused, or is in.
        # All others say neither that it does nor that it does not.
        some_worked = error is None or (isinstance(error, PartsFailed) and len(told) < parts)
        if some_worked or any(isinstance(one, SinkPermanent) for one in told):
            self._worked()

    def _failed(self, error: SinkTransient) -> None:
        with self._lock:
            if self.held_for():
                return  # others that were under way when it was found out
            self._failures += 1
            wait = min(_LONGEST, _FIRST * 2 ** min(self._failures - 1, 10))
            wait = max(wait, min(error.retry_after or wait, _LONGEST))
            self._held_until = self._clock.monotonic() + wait.total_seconds()
            if isinstance(error, SinkBusy):
                self.stretch, self._calm = min(2 * self.stretch, _MOST_STRETCH), 0
            is_first, self.is_tripped = not self.is_tripped, True
        if is_first:
            # What a person has to mend is an error; what passes by itself is not.
            level = logging.ERROR if isinstance(error, SinkUnready) else logging.WARNING
            about = {"sink": self.sink, "error_message": str(error), "code": error.code}
            logger.log(level, "nothing more is fetched for a sink", extra=about)

    def _worked(self) -> None:
        if not self.is_tripped and self.stretch == 1:
            return
        with self._lock:
            if self.held_for():
                return  # begun before it was found out
            was_held, self.is_tripped, self._failures = self.is_tripped, False, 0
            self._calm += 1
            if self._calm >= _CALM:
                self.stretch, self._calm = max(1, self.stretch // 2), 0
        if was_held:
            logger.info("a sink works again", extra={"sink": self.sink})
