"""A broker with a worker in the test's process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any, TypeVar

import dramatiq
import pika
import redis
from dramatiq import Worker

from formrelay.brokers.base import RelayBroker
from formrelay.brokers.rabbitmq import codec
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.rabbitmq.publish_call import Publication
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.brokers.saved_letters import SavedLetter
from formrelay.testing import MemoryBroker

T = TypeVar("T")


class Harness:
    """A broker, a queue for one test, and a worker that the test starts and stops."""

    def __init__(self, broker: RelayBroker, queue: str) -> None:
        self.broker = broker
        self.queue = queue
        self.worker: Worker | None = None

    def actor(self, function: Callable[..., Any], **options: Any) -> dramatiq.Actor[..., Any]:
        """Declare ``function`` as an actor on the queue."""
        return dramatiq.actor(function, broker=self.broker, queue_name=self.queue, **options)

    def start(self, *, threads: int = 4, timeout: int = 50) -> None:
        """Start the worker.

        Args:
            timeout: milliseconds of each wait for messages. Stopping takes twice as long.
        """
        self.worker = Worker(self.broker, worker_timeout=timeout, worker_threads=threads)
        self.worker.start()

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.stop(timeout=10_000)
            self.worker = None

    def inject(self, data: bytes) -> None:
        """Put raw bytes on the queue, as other publishers may."""
        if isinstance(self.broker, RedisBroker):
            keys, client = self.broker.keys, self.broker.client
            client.hset(keys.bodies(self.queue), "injected", data)
            client.rpush(keys.waiting(self.queue), "injected")
        elif isinstance(self.broker, RabbitBroker):
            self.broker.counts(self.queue)  # declares the queue
            head = codec.encoded(pika.BasicProperties(delivery_mode=2))
            self.broker.client.publish([Publication(self.queue, "", self.queue, head, data)])
        elif isinstance(self.broker, MemoryBroker):
            self.broker.inject(self.queue, data)

    def bury(self, letters: Sequence[tuple[str, bytes]]) -> None:
        """Put encoded dead letters, by id, among the dead letters, without running them."""
        # One after the other, since Redis has no order within a millisecond.
        begin = time.time() - len(letters)
        saved = (
            SavedLetter(self.queue, id, body, died=begin + number)
            for number, (id, body) in enumerate(letters)
        )
        self.broker.inspector.add_dead(self.queue, saved)

    def dead(self) -> list[Any]:
        return list(self.broker.dead_letters(self.queue))

    def is_empty(self) -> bool:
        """Whether no message is waiting, scheduled or in flight.

        RabbitMQ counts only the waiting messages; this process counts those that it has received.
        A message on its way is in neither number, so two checks must find none.
        """
        if not isinstance(self.broker, RabbitBroker):
            return self._counts_none()
        if self.broker.in_flight(self.queue) or not self._counts_none():
            return False
        Event().wait(0.02)
        return not self.broker.in_flight(self.queue) and self._counts_none()

    def _counts_none(self) -> bool:
        counts = self.broker.counts(self.queue)
        return not (counts.waiting or counts.scheduled or counts.in_flight)

    def close(self) -> None:
        self.stop()
        self.broker.close()


def flush_embedded(url: str) -> None:
    """Empty the embedded broker of a test."""
    with redis.Redis.from_url(url) as client:
        client.flushall()
