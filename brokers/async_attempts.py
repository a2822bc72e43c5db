"""The attempts of ``async`` actors, and which of them may run at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from dramatiq import MessageProxy

from ..middleware.delivery import Delivery

#: Seconds after which a running attempt no longer counts against the concurrency of its queue.
LONG_AFTER = 1.0
#: Maximum number of running attempts, as a multiple of the concurrency.
MAX_LONG = 10


class Settles(Protocol):
    """The consumer that a delivery came from."""

    def ack(self, message: MessageProxy) -> None:
        """Settle a message that did not fail for good."""

    def nack(self, message: MessageProxy) -> None:
        """Settle a message that failed for good."""

    def settles_at_once(self, delivery: Delivery) -> bool:
        """Whether settling ``delivery`` waits for no answer of the broker."""


@dataclass(eq=False, slots=True)
class Attempt:
    """One attempt, until it is settled.

    Attributes:
        context: all of its steps and hooks run in it, one thread at a time.
        is_performed: whether a worker thread has run the actor and its hooks.
        is_waiting: whether the actor awaits something, so that the task may be cancelled.
        interrupt: why the actor was cancelled.
    """

    delivery: Delivery
    consumer: Settles
    context: Context
    is_performed: bool = False
    began: float = 0.0
    is_long: bool = False
    is_over: bool = False
    is_waiting: bool = False
    task: asyncio.Task[None] | None = None
    interrupt: type[BaseException] | None = None


class AttemptQueue:
    """The attempts of one queue. Only ``waiting`` and ``held`` are shared between threads.

    Args:
        limit: number of attempts that may run at a time, long ones not counted.

    Attributes:
        waiting: not begun.
        held: of worker threads, to be settled once their follow-ups are sent.
        running: number of attempts that are begun.
        long: number of the running attempts that are older than :data:`LONG_AFTER`.
        is_ending: whether all of them are to be interrupted.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.waiting: deque[Attempt] = deque()
        self.held: deque[Attempt] = deque()
        self.running = self.long = 0
        self.is_ending = False
        self._young: deque[Attempt] = deque()

    def take(self, *, is_stopping: bool) -> Attempt | None:
        """The next attempt to begin; it is running from now on."""
        count, limit = self.running, self._limit
        if self.held:
            attempts = self.held
        elif is_stopping or count - self.long >= limit or count >= MAX_LONG * limit:
            return None
        else:
            attempts = self.waiting
        self.running += 1  # before it is taken: none is missing in between
        try:
            attempt = attempts.popleft()
        except IndexError:  # handed back
            self.running -= 1
            return None
        attempt.began = monotonic()
        self._young.append(attempt)
        return attempt

    def end(self, attempt: Attempt) -> None:
        """Count an attempt that is settled no more."""
        attempt.is_over = True
        self.running -= 1
        self.long -= attempt.is_long
        self.age()

    def age(self) -> None:
        """Count the attempts that have become long."""
        young, old = self._young, monotonic() - LONG_AFTER
        while young and (young[0].is_over or young[0].began <= old):
            attempt = young.popleft()
            if not attempt.is_over:
                attempt.is_long = True
                self.long += 1
