"""Attempts of ``async`` actors, and how many of a queue may run at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from contextvars import Context
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from dramatiq import MessageProxy

from ..middleware.delivery import Delivery

#: Seconds after which a running attempt is long: it counts against the total limit only.
LONG_AFTER = 1.0


class SettlingConsumer(Protocol):
    """The consumer that fetched a delivery and settles it."""

    def ack(self, message: MessageProxy) -> None:
        """Settle a message that is done, retried or deferred."""

    def nack(self, message: MessageProxy) -> None:
        """Settle a message that failed and is not retried."""

    def settles_at_once(self, delivery: Delivery) -> bool:
        """Whether ``delivery`` can be settled without waiting for the broker."""


@dataclass(eq=False, slots=True)
class AsyncAttempt:
    """One attempt, until it is settled.

    Attributes:
        context: the context in which all hooks and the actor run, in one thread at a time.
        is_performed: whether a worker thread has run the actor and its hooks already.
        began: monotonic seconds when the attempt started.
        is_long: whether it has run for more than :data:`LONG_AFTER`.
        is_over: whether it has ended.
        is_waiting: whether the actor's coroutine runs in the task, which may be cancelled then.
        interrupt: the exception to raise instead of ``CancelledError``; None if not cancelled.
        thread: the identifier of the thread in which the attempt runs; None in the event loop.
        start: the call that runs it in a thread; None in the event loop.
    """

    delivery: Delivery
    consumer: SettlingConsumer
    context: Context
    is_performed: bool = False
    began: float = 0.0
    is_long: bool = False
    is_over: bool = False
    is_waiting: bool = False
    task: asyncio.Task[None] | None = None
    interrupt: type[BaseException] | None = None
    thread: int | None = None
    start: Future[None] | None = None

    @property
    def is_taken_back(self) -> bool:
        """Whether its message was taken back before a thread was free."""
        return self.start is not None and self.start.cancelled()

    def take_back(self) -> bool:
        """Take the attempt back if it waits for a thread; it is not settled then."""
        # Whether it started is decided by cancel(), in one atomic step.
        return self.start is not None and not self.start.cancelled() and self.start.cancel()


class AttemptQueue:
    """The attempts of one queue. Other threads change ``waiting`` and ``performed``.

    Attributes:
        limit: maximum number of running attempts that are not long.
        total: maximum number of running attempts, long attempts included.
        waiting: attempts that have not started.
        performed: attempts from worker threads, to settle after their follow-up messages are sent.
        running: number of started attempts.
        long: number of running attempts older than :data:`LONG_AFTER`.
        is_ending: whether the running attempts are to be cancelled.
    """

    def __init__(self, limit: int, total: int) -> None:
        self.limit, self.total = limit, total
        self.waiting: deque[AsyncAttempt] = deque()
        self.performed: deque[AsyncAttempt] = deque()
        self.running = self.long = 0
        self.is_ending = False
        self._young: deque[AsyncAttempt] = deque()

    def take(self, *, is_stopping: bool) -> AsyncAttempt | None:
        """Take the next attempt to start and count it as running; None if none may start."""
        count, limit = self.running, self.limit
        if self.performed:
            attempts = self.performed
        elif is_stopping or count - self.long >= limit or count >= self.total:
            return None
        else:
            attempts = self.waiting
        self.running += 1  # before popleft, so that other threads never see a count too low
        try:
            attempt = attempts.popleft()
        except IndexError:  # none waits, or another thread took it back
            self.running -= 1
            return None
        attempt.began = monotonic()
        self._young.append(attempt)
        return attempt

    def end(self, attempt: AsyncAttempt) -> None:
        """Stop counting a settled attempt."""
        attempt.is_over = True
        self.running -= 1
        self.long -= attempt.is_long
        self.age()

    def age(self) -> None:
        """Count attempts that have become long since the last call."""
        young, old = self._young, monotonic() - LONG_AFTER
        while young and (young[0].is_over or young[0].began <= old):
            attempt = young.popleft()
            if not attempt.is_over:
                attempt.is_long = True
                self.long += 1
