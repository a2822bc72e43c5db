"""``broker.join()``: waits in a test until the messages of a queue are processed."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from threading import Event

from dramatiq.errors import QueueJoinTimeout, QueueNotFound

from .contract import BrokerContract
from .errors import DeadLettered
from .inspection import DeadFilter, Entry, Inspector, QueueCounts


class JoiningBroker(BrokerContract):
    """A broker with Dramatiq's ``join()``.

    Attributes:
        fail_fast_default: whether ``join()`` raises if the queue has a dead letter.
    """

    fail_fast_default = False
    #: Minimum number of consecutive checks that must find the queue empty.
    _empty_checks = 1

    @property
    @abstractmethod
    def inspector(self) -> Inspector:
        """The inspector of queues, workers and dead letters."""

    def counts(self, queue: str) -> QueueCounts:
        """Count the messages of a queue by state."""
        return self.inspector.counts(queue)

    def is_drained(self, queue_name: str) -> bool:
        """Whether no message of a queue is waiting, scheduled or in flight."""
        counts = self.counts(queue_name)
        return not (counts.waiting or counts.scheduled or counts.in_flight)

    def join(
        self,
        queue_name: str,
        min_successes: int = 1,
        idle_time: int | None = None,
        *,
        timeout: int | None = None,
        fail_fast: bool | None = None,
        interval: int = 100,
    ) -> None:
        """Wait until the messages of a queue are processed, scheduled messages included.

        Args:
            min_successes: minimum number of consecutive checks that must find the queue empty. (A
                parameter of Dramatiq's RabbitmqBroker, as ``idle_time``.)
            idle_time: another name of ``interval``.
            timeout: milliseconds; None waits without a limit, on a ``MemoryBroker`` for its
                ``join_timeout``.
            fail_fast: whether to raise if the queue has a dead letter afterwards. None:
                ``fail_fast_default``.
            interval: milliseconds between two checks of the queue.

        Raises:
            QueueNotFound: the queue is not declared in this process.
            QueueJoinTimeout: messages are left after ``timeout``.
            DeadLettered: the queue has a dead letter.
            BrokerUnavailable, BrokerRefused
        """
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)  # type: ignore[no-untyped-call]
        checks = max(min_successes, self._empty_checks)
        seconds = (interval if idle_time is None else idle_time) / 1000
        self._wait_until_drained(queue_name, timeout, seconds, checks)
        self._raise_dead(queue_name, self.fail_fast_default if fail_fast is None else fail_fast)

    def _wait_until_drained(
        self, queue_name: str, timeout: int | None, interval: float, checks: int
    ) -> None:
        deadline = math.inf if timeout is None else time.monotonic() + timeout / 1000
        successes = 0
        while True:
            successes = successes + 1 if self.is_drained(queue_name) else 0
            if successes >= checks:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._timed_out(queue_name, timeout)
            Event().wait(min(left, interval))

    def _timed_out(
        self, queue_name: str, timeout: float | None, advice: str = ""
    ) -> QueueJoinTimeout:
        counts = self.counts(queue_name)
        named = {
            "waiting": counts.waiting,
            "scheduled": counts.scheduled,
            "in flight": counts.in_flight,
        }
        found = ", ".join(f"{number} {name}" for name, number in named.items() if number)
        return QueueJoinTimeout(  # type: ignore[no-untyped-call]
            f"expected the queue {queue_name!r} to be empty within {timeout} ms, got "
            f"{found or 'messages in flight or scheduled'}{advice}"
        )

    def _raise_dead(self, queue_name: str, fail_fast: bool) -> None:
        """Raise the error of the oldest dead letter of a queue, if ``fail_fast`` and it has any."""
        if fail_fast:
            for letter in self.inspector.dead_letters(DeadFilter(queue_name), limit=1):
                raise dead_lettered(letter)


def dead_lettered(letter: Entry) -> DeadLettered:
    """Make the error that describes a dead letter."""
    failure, message = letter.failure, letter.message
    text = f"{message.actor_name} ({letter.id}) was dead-lettered"
    if failure is not None:
        text += f" after attempt {failure.attempt} ({failure.reason}): {failure.error}"
        text += f": {failure.message}" if failure.message else ""
    return DeadLettered(text)
