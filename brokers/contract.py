"""The broker as its parts see it, and the types that they share.

A file of its own: ``base.py`` imports the async runner, the follow-ups and the inspector, which
need these types.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import dramatiq
from dramatiq.middleware import Middleware

from ..core.clock import Clock
from ..state import StateRedis
from ..state.worker_reports import WorkerReports
from .envelope import Envelope

#: Maximum delay of a message; RabbitMQ's delay queues end soon after.
LONGEST_DELAY = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """Options of every broker.

    Attributes:
        max_message_bytes: maximum size of an encoded message at ``send()``.
        heartbeat_timeout: time without a heartbeat after which a worker counts as dead.
        max_crash_deliveries: number of killed workers after which a message is dead-lettered.
        dead_letter_retention: how long dead letters are kept.
        connect_timeout: time-out of connecting, and of one answer.
        idempotency_keep: how long the result of a job with an idempotency key is kept.
        consumer_timeout: time after which the server redelivers a message that is not settled,
            although its worker is alive; None: never.
        concurrency: maximum number of messages that one process runs at a time, by queue name;
            other queues are limited by the number of threads.
        log_exceptions: details of actors' exceptions in logs: ``message``, ``places`` or ``none``;
            None: ``places`` for formrelay's actors, ``message`` for others.
        makes_spans: whether spans are made if the program has a tracer provider of OpenTelemetry.
        payload_key_ids: returns the ids of the keys of PAYLOAD_KEYS, for the reports of workers.
    """

    max_message_bytes: int = 1024 * 1024
    heartbeat_timeout: timedelta = timedelta(seconds=15)
    max_crash_deliveries: int = 3
    dead_letter_retention: timedelta = timedelta(days=30)
    connect_timeout: timedelta = timedelta(seconds=5)
    idempotency_keep: timedelta = timedelta(hours=24)
    concurrency: dict[str, int] | None = None
    consumer_timeout: timedelta | None = None
    log_exceptions: str | None = None
    makes_spans: bool = True
    payload_key_ids: Callable[[], tuple[str, ...]] = tuple


@dataclass(frozen=True, slots=True)
class Batching:
    """The size of an actor's batches.

    Attributes:
        size: the weight at which a batch is full.
        wait: how long the first message of a batch waits for others.
        weight: weight of one message, from its keyword arguments; None: each weighs 1.
        key: key of one message, from its keyword arguments; messages with different keys never
            share a batch. None: all messages may.
        bytes: maximum bytes of a batch; None: as the broker allows.
    """

    size: int
    wait: timedelta
    weight: Callable[[Mapping[str, Any]], int] | None = None
    key: Callable[[Mapping[str, Any]], str] | None = None
    bytes: int | None = None


class QueueConsumer(Protocol):
    """A consumer, as the broker sees it when an actor is declared.

    Attributes:
        collects_batches: whether it can deliver batches.
    """

    queue_name: str
    is_closing: bool
    collects_batches: bool

    def note_actors(self) -> None:
        """Read the batches and throttles of the queue's actors again."""


class BrokerContract(dramatiq.Broker, ABC):
    """A broker, as its parts see it.

    Attributes:
        queues: names of the queues that are declared in this process.
        is_stopping: whether the worker of this process is stopping and starts no more messages.
        is_draining: whether the consumers deliver no more messages, and put back messages that have
            not started: the worker is stopping, or is finishing its messages before it stops.
        middleware_version: another object after each change of the middleware.
        job_types: actor name by job type, for plain jobs.
        actor_finders: called with the name of an actor that is not declared, in order; each
            declares and returns the actor, or returns None.
        state: the Redis that keeps shared state; None: this process keeps it in memory.
    """

    options: BrokerOptions
    clock: Clock
    queues: set[str]
    is_stopping: bool
    is_draining: bool
    middleware_version: object
    job_types: dict[str, str]
    actor_finders: list[Callable[[str], dramatiq.Actor[Any, Any] | None]]
    state: StateRedis | None

    def get_actor(self, actor_name: str) -> dramatiq.Actor[Any, Any]:
        """Return an actor; ``actor_finders`` look for an undeclared actor.

        Raises:
            ActorNotFound: there is no such actor.
        """
        actor = self.actors.get(actor_name)
        if actor is None:
            found = (find(actor_name) for find in self.actor_finders)
            actor = next((each for each in found if each is not None), None)
        return super().get_actor(actor_name) if actor is None else actor

    @abstractmethod
    def worker_reports(self) -> WorkerReports:
        """Return the reports of worker processes; without a shared store, of this process alone."""

    @abstractmethod
    def put_again(self, envelope: Envelope) -> None:
        """Write a message again after an error that does not say whether it was written.

        Raises:
            BrokerUnavailable, BrokerRefused: the broker may or may not have the message.
        """

    @abstractmethod
    def drop_waiting(self, queue_name: str) -> int:
        """Delete the waiting and scheduled messages of a queue; return their number."""

    def in_flight_limit(self, queue_name: str) -> int | None:
        """Maximum number of running messages of ``async`` actors on a queue; None: no limit."""
        numbers = [
            actor.options["in_flight"]
            for actor in self.actors.values()
            if actor.queue_name == queue_name and "in_flight" in actor.options
        ]
        return sum(numbers) if numbers else None

    def in_flight_total(self, queue_name: str) -> int:
        """Maximum messages in flight of ``async`` actors on a queue, with the long runs."""
        return sum(
            actor.options.get("in_flight_total", actor.options["in_flight"])
            for actor in self.actors.values()
            if actor.queue_name == queue_name and "in_flight" in actor.options
        )

    def log_hook_failure(self, hook: str, middleware: Middleware) -> None:
        """Log the exception that a hook of a middleware has just raised."""
        self.logger.critical("Unexpected failure in %s of %r.", hook, middleware, exc_info=True)
