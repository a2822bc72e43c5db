"""The broker on RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pika

from ...core.clock import SYSTEM_CLOCK, Clock
from ...core.failure import Failure, Reason
from ..base import BrokerOptions, Envelope, RelayBroker
from ..coalescing import CoalescingConsumer
from ..consumer import RelayConsumer
from ..envelope import Undecodable, decode, quarantine, revive
from ..inspection import DeadLetter, QueueCounts
from ..settlement import Write
from . import ladder
from .connection import address, parameters, translated
from .consumer import RabbitConsumer
from .publisher import Publisher
from .topology import Topology


class RabbitBroker(RelayBroker):
    """Queues in a RabbitMQ server.

    Args:
        url: ``amqp://`` or ``amqps://``.
        queue_type: ``quorum`` or ``classic``.
        workers: worker name by queue (see :class:`.topology.Topology`).
    """

    def __init__(
        self,
        url: str,
        *,
        options: BrokerOptions | None = None,
        queue_type: str = "quorum",
        workers: dict[str, str] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(options or BrokerOptions(), clock=clock)
        self.parameters = parameters(url, timeout=self.options.connect_timeout)
        self.where = address(self.parameters)
        self.topology = Topology(queue_type, workers or {}, self.options.dead_letter_retention)
        self._ready: set[str] = set()
        self._publisher = Publisher(self.parameters, self._prepare)

    def _prepare(self, channel: Any) -> None:
        # On each new connection anew: the server may have come back without its queues.
        self._ready.clear()
        self.topology.declare_ladder(channel)

    def prepare_queue(self, channel: Any, queue: str) -> None:
        """Declare a queue and all it needs, on a channel of the caller's."""
        self.topology.declare_ladder(channel)
        self.topology.declare(channel, queue)

    def _ensure(self, queue: str) -> None:
        channel = self._publisher.channel()
        if queue not in self._ready:
            with translated(self.where):
                self.topology.declare(channel, queue)
            self._ready.add(queue)

    # -- the way in ------------------------------------------------------------------

    def _put(self, envelopes: Sequence[Envelope]) -> None:
        for envelope in envelopes:
            message = envelope.message
            properties = _properties(
                message.message_id, priority=message.options.get("broker_priority")
            )
            self._publish(message.queue_name, envelope.body, envelope.due, properties)

    def _publish(self, queue: str, body: bytes, due: int | None, properties: Any) -> None:
        self._ensure(queue)
        exchange, routing_key = "", queue
        if due is not None:
            delay_ms = due - self.clock.time() * 1000
            if delay_ms > 0:
                exchange, routing_key = ladder.route(queue, delay_ms)
        self._publisher.publish(exchange, routing_key, body, properties)

    def publish_at(self, queue: str, write: Write) -> None:
        """Write a message that is due at a time."""
        self._publish(queue, write.body, write.due, _properties(write.message_id))

    def publish_dead(self, queue: str, write: Write) -> None:
        """Write a dead letter."""
        self._ensure(queue)
        exchange = self.topology.dead_exchange(queue)
        self._publisher.publish(exchange, queue, write.body, _properties(write.message_id))

    # -- the way out -------------------------------------------------------------------

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> RelayConsumer:
        """A consumer of a queue; coalescing, where a batch actor is declared on it."""
        batching = self.batching(queue_name)
        if batching:
            prefetch = max(prefetch, 2 * max(size for size, _ in batching.values()))
        limit = (self.options.concurrency or {}).get(queue_name)
        if limit is not None and not batching:
            prefetch = min(prefetch, limit)
        consumer = RabbitConsumer(self, queue_name, prefetch=prefetch, timeout_ms=timeout)
        return CoalescingConsumer(consumer, batching) if batching else consumer

    # -- operations ----------------------------------------------------------------------

    def ping(self) -> None:
        channel = self._publisher.channel()
        with translated(self.where):
            for queue in sorted(self.queues):
                self.topology.declare(channel, queue)

    def flush(self, queue_name: str) -> None:
        """Drop the waiting messages of a queue; never the dead ones.

        The scheduled ones cannot be dropped by queue: they share the ladder.
        """
        self._ensure(queue_name)
        with translated(self.where):
            self._publisher.channel().queue_purge(queue_name)

    def counts(self, queue: str) -> QueueCounts:
        self._ensure(queue)
        channel = self._publisher.channel()
        with translated(self.where):
            waiting = channel.queue_declare(queue, passive=True).method.message_count
            dead = channel.queue_declare(
                self.topology.dead_queue(queue), passive=True
            ).method.message_count
        # RabbitMQ tells neither over AMQP: the ladder is shared by all queues.
        return QueueCounts(queue, waiting, scheduled=None, in_flight=None, dead=dead)

    def dead_letters(self, queue: str, *, limit: int = 100) -> Iterator[DeadLetter]:
        with self._dead_channel(queue) as channel:
            found = [
                self._dead_letter(queue, properties, body)
                for _, properties, body in self._get_dead(channel, queue, limit)
            ]
        # The channel is closed, so RabbitMQ has put them all back.
        yield from found

    def replay(self, queue: str, id: str) -> bool:
        return self._take_dead(queue, id, put_back=True)

    def delete_dead(self, queue: str, id: str) -> bool:
        return self._take_dead(queue, id, put_back=False)

    def _take_dead(self, queue: str, id: str, *, put_back: bool) -> bool:
        with self._dead_channel(queue) as channel:
            for number, properties, body in self._get_dead(channel, queue, limit=None):
                letter = self._dead_letter(queue, properties, body)
                if letter.id != id:
                    continue
                if put_back:
                    self._publish(queue, revive(letter.message), None, _properties(id))
                with translated(self.where):
                    channel.basic_ack(number)
                return True
        return False

    def _dead_channel(self, queue: str) -> Any:
        """A channel of its own: closing it puts back what was looked at."""
        self._ensure(queue)
        return _Closing(self._publisher.channel().connection.channel())

    def _get_dead(
        self, channel: Any, queue: str, limit: int | None
    ) -> Iterator[tuple[int, Any, bytes]]:
        name = self.topology.dead_queue(queue)
        count = 0
        while limit is None or count < limit:
            with translated(self.where):
                method, properties, body = channel.basic_get(name)
            if method is None:
                return
            count += 1
            yield method.delivery_tag, properties, body

    def _dead_letter(self, queue: str, properties: Any, body: bytes) -> DeadLetter:
        id = properties.message_id or "unknown"
        try:
            message = decode(body, queue_name=queue, job_types=self.job_types)
        except Undecodable as error:  # buried by RabbitMQ itself, or by another program
            failure = Failure.of(error, reason=Reason.UNDECODABLE, attempt=0, now=self.clock.time())
            message = quarantine(body, queue_name=queue, message_id=id, failure=failure)
        return DeadLetter.of(queue, properties.message_id or message.message_id, message)

    def close(self) -> None:
        """Close the connections of this process."""
        self._publisher.close()


class _Closing:
    """A channel as a context that closes it."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def __enter__(self) -> Any:
        return self._channel

    def __exit__(self, *_: object) -> None:
        if self._channel.is_open:
            self._channel.close()


def _properties(message_id: str, *, priority: Any = None) -> Any:
    return pika.BasicProperties(
        content_type="application/json",
        delivery_mode=2,  # kept through a restart
        message_id=message_id,
        priority=priority if isinstance(priority, int) and 0 <= priority <= 9 else None,
    )
