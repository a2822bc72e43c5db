"""A circuit breaker for an outside system, asked by the consumers that fetch messages for it.

It is closed (any number of messages), open (no message) or half-open (one message, to find out
whether the system works again). If the system is busy, it also asks for fewer and larger batches.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from threading import Lock

from .backoff import BackoffTimer
from .clock import SYSTEM_CLOCK, Clock
from .errors import (
    PartsFailed,
    SinkBusy,
    SinkPermanent,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)
from .retry import Exponential

logger = logging.getLogger("formrelay.workers")

#: How long the circuit stays open after each failure.
_BACKOFF = Exponential(base=timedelta(seconds=1), cap=timedelta(seconds=30))
#: Maximum factor for the size and the wait of a batch.
_MAX_STRETCH = 8
#: Number of successful batches in a row after which the factor is halved.
_SUCCESSES_TO_SHRINK = 20


class Throttle:
    """The circuit breaker of one outside system in this process. Thread-safe.

    Args:
        sink: the system's name in log lines and reports.
        title: its name in sentences; default: ``sink``.
    """

    def __init__(self, sink: str, *, title: str = "", clock: Clock = SYSTEM_CLOCK) -> None:
        self.title = title or sink
        #: The factor for the size and the wait of a batch.
        self.stretch = 1
        #: Whether the last attempt failed or a pause began. Consumers read this once per message.
        self.is_tripped = False
        self.sink = sink
        self._lock = Lock()
        self._clock = clock
        self._timer = BackoffTimer(clock)
        self._paused_until = 0.0
        self._successes = 0

    @property
    def is_failing(self) -> bool:
        """Whether the system did not work at the last attempt."""
        return self.is_tripped and self._timer.failures > 0

    @property
    def allowance(self) -> int | None:
        """Maximum number of messages in flight: None (no limit), 0 (open) or 1 (half-open)."""
        if not self.is_tripped:
            return None
        if self.open_for():
            return 0
        with self._lock:  # another thread may pause or fail at this moment
            if self._timer.failures:
                return 1
            if self.open_for():
                return 0
            self.is_tripped = False  # it was only a pause
            return None

    def open_for(self) -> timedelta:
        """The time until the next try; zero when messages may be tried now."""
        if not self.is_tripped:
            return timedelta(0)
        pause = timedelta(seconds=max(0.0, self._paused_until - self._clock.monotonic()))
        return max(self._timer.remaining, pause)

    def pause(self, after: timedelta) -> None:
        """Fetch no message for a while, because a limit is reached; the system itself works.

        Only time ends a pause. A success does not: it shows that the system works, which nobody
        doubted, and the attempt may have begun before the limit was reached.
        """
        with self._lock:
            until = self._clock.monotonic() + after.total_seconds()
            self._paused_until = max(self._paused_until, until)
            self.is_tripped = True

    def note(self, error: BaseException | None, *, parts: int = 1) -> None:
        """Record the end of an attempt.

        Args:
            error: what the attempt raised; None for success.
            parts: the number of messages that were tried.
        """
        errors = [*error.failures.values()] if isinstance(error, PartsFailed) else [error]
        for part_error in errors:
            if isinstance(part_error, SinkUnavailable | SinkBusy | SinkUnready):
                self._failed(part_error)
                return
        # Only a response (success or refusal) shows that the system works. Any other error, like
        # an invalid job, says nothing about the system.
        some_succeeded = error is None or (isinstance(error, PartsFailed) and len(errors) < parts)
        if some_succeeded or any(isinstance(each, SinkPermanent) for each in errors):
            self._worked()

    def _failed(self, error: SinkTransient) -> None:
        with self._lock:
            if self._timer.remaining:
                return  # this attempt was under way when the circuit opened
            is_first = not self._timer.failures
            self._timer.fail(_BACKOFF, at_least=error.retry_after)
            if isinstance(error, SinkBusy):
                self.stretch, self._successes = min(2 * self.stretch, _MAX_STRETCH), 0
            self.is_tripped = True
        if is_first:
            # An error if an operator has to act; a warning if the failure may pass by itself.
            level = logging.ERROR if isinstance(error, SinkUnready) else logging.WARNING
            about = {"sink": self.sink, "error_message": str(error), "code": error.code}
            logger.log(level, "pausing consumption: %s is unavailable", self.title, extra=about)

    def _worked(self) -> None:
        if not self.is_tripped and self.stretch == 1:
            return
        with self._lock:
            if self.open_for():
                return  # this attempt began before the circuit opened, or the pause
            was_down, self.is_tripped = self._timer.failures > 0, False
            self._timer.reset()
            self._successes += 1
            if self._successes >= _SUCCESSES_TO_SHRINK:
                self.stretch, self._successes = max(1, self.stretch // 2), 0
        if was_down:
            about = {"sink": self.sink}
            logger.info("resuming consumption: %s is available", self.title, extra=about)
