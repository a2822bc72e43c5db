"""What the parts of a broker need of it.

The consumers, the inspectors and the sending of follow-ups import this file, and the broker imports
them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dramatiq
from dramatiq import Message
from dramatiq.middleware import Middleware

from ..core.clock import Clock

#: No message is scheduled further ahead; RabbitMQ's delay queues end soon after.
LONGEST_DELAY = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """What every broker is told, whichever it is.

    Attributes:
        max_message_bytes: a larger encoded message is refused at ``send()``.
        heartbeat_timeout: a worker unheard of for longer is dead.
        max_crash_deliveries: deliveries that killed their worker before the
            message is dead-lettered.
        dead_letter_retention: how long dead letters are kept.
        connect_timeout: to connect, and for one answer.
        idempotency_keep: how long the result of a job with an idempotency key is known.
        concurrency: by queue name, the most messages that one process works on
            at a time; queues that are not named are bounded by the threads.
    """

    max_message_bytes: int = 1024 * 1024
    heartbeat_timeout: timedelta = timedelta(seconds=15)
    max_crash_deliveries: int = 3
    dead_letter_retention: timedelta = timedelta(days=30)
    connect_timeout: timedelta = timedelta(seconds=5)
    idempotency_keep: timedelta = timedelta(hours=24)
    concurrency: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Batching:
    """How an actor wants its batches.

    Attributes:
        size: a batch is full at this weight.
        wait: how long the first of a batch waits for others.
        weight: of one call, by its keyword arguments; None: each weighs 1.
    """

    size: int
    wait: timedelta
    weight: Callable[[Mapping[str, Any]], int] | None = None


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message on its way in.

    Attributes:
        due: unix milliseconds; None is at once.
        priority: 0 to 9, the highest first; None is 0.
    """

    message: Message[Any]
    body: bytes
    due: int | None
    priority: int | None


class BrokerContract(dramatiq.Broker, ABC):
    """A broker, as its parts see it.

    Attributes:
        queues: names of the queues that are declared in this process.
        is_stopping: whether this process's worker is stopping: nothing new is begun.
        job_types: actor name by job type, for the plain jobs of other publishers.
    """

    options: BrokerOptions
    clock: Clock
    queues: set[str]
    is_stopping: bool
    job_types: dict[str, str]

    @abstractmethod
    def put_again(self, envelope: Envelope) -> None:
        """Write a message whose first write failed; the broker may have it all the same.

        Raises:
            BrokerUnavailable, BrokerRefused: the broker does not have it.
        """

    @abstractmethod
    def drop_waiting(self, queue_name: str) -> int:
        """Drop the waiting messages of a queue, never the dead ones; returns how many."""

    def in_flight_limit(self, queue_name: str) -> int | None:
        """How many messages of the ``async`` actors on a queue run at a time; None: it has none."""
        numbers = [
            actor.options["in_flight"]
            for actor in self.actors.values()
            if actor.queue_name == queue_name and "in_flight" in actor.options
        ]
        return sum(numbers) if numbers else None

    def log_hook_failure(self, hook: str, middleware: Middleware) -> None:
        """Log the exception that a hook of a middleware has just raised."""
        self.logger.critical("Unexpected failure in %s of %r.", hook, middleware, exc_info=True)
