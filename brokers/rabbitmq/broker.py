"""The broker on RabbitMQ."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import orjson
from pika import spec

from ...core.clock import SYSTEM_CLOCK, Clock
from ...core.errors import ConfigError
from ..base import BrokerOptions, Envelope, RelayBroker
from ..coalescing import CoalescingConsumer
from ..consumer import RelayConsumer
from ..errors import BrokerUnavailable
from ..inspection import DeadFilter, DeadLetter, QueueCounts
from ..inspector import Inspector
from ..settlement import Write
from ..unfinished import MOST_ASIDE
from . import codec
from .access import try_access
from .connection import Link
from .consumer import RabbitConsumer
from .dead_letters import recorded
from .declarations import Declared
from .inspector import Management, RabbitInspector
from .publisher import Outgoing, Publisher
from .servers import address, servers
from .topology import Topology, delay_route


class RabbitBroker(RelayBroker):
    """Queues in a RabbitMQ server.

    Args:
        url: ``amqp://`` or ``amqps://``; several hosts, or several URLs (see
            :func:`.servers.servers`).
        queue_type: ``quorum`` or ``classic``.
        workers: worker name by queue (see :class:`.topology.Topology`).
        max_priority: how many priorities the work queues have (``broker_priority``,
            the higher the sooner); they are classic queues then. None: all are equal.
        adopt: names of queues, or of their dead-letter queues, that are used as they
            are; a mapping gives the dead-letter exchange of each as well.
        management_url: of the management API, which tells what AMQP does not
            (``http://user:password@host:15672/api``).

    Raises:
        ConfigError: the URL cannot be read, or max_priority is not 1 to 255.
    """

    def __init__(
        self,
        url: str,
        *,
        options: BrokerOptions | None = None,
        queue_type: str = "quorum",
        workers: dict[str, str] | None = None,
        max_priority: int | None = None,
        adopt: Mapping[str, str | None] | Iterable[str] = (),
        management_url: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(options or BrokerOptions(), clock=clock)
        if max_priority is not None and not 1 <= max_priority <= 255:
            raise ConfigError(f"expected max_priority to be 1 to 255, got {max_priority}")
        self.servers = servers(url, timeout=self.options.connect_timeout)
        self.where = ", ".join(address(server) for server in self.servers)
        adopted = adopt if isinstance(adopt, Mapping) else dict.fromkeys(adopt)
        self.topology = Topology(
            queue_type, workers or {}, self.options.dead_letter_retention, max_priority, adopted
        )
        self.management: Management | None = None
        if management_url is not None:
            self.management = Management(
                management_url,
                virtual_host=self.servers[0].virtual_host,
                timeout=self.options.connect_timeout.total_seconds(),
            )
        self.declared = Declared(self.topology, self.connect)
        self._publisher = Publisher(self.connect, self.declared)

    def connect(self) -> Link:
        """A new connection to any of the servers, for the caller alone.

        Raises:
            BrokerUnavailable: none can be reached.
            BrokerRefused: one was, and it refused user, password or virtual host.
        """
        failures = []
        for server in random.sample(self.servers, len(self.servers)):
            try:
                return Link(server)
            except BrokerUnavailable as error:
                failures.append(error)
        if len(failures) == 1:
            raise failures[0]
        raise BrokerUnavailable(
            f"expected one RabbitMQ of {self.where} to answer, none did ({failures[-1].message}); "
            "check that one runs and that RABBITMQ_URL is right"
        )

    # -- the way in ------------------------------------------------------------------

    def _put(self, envelopes: Sequence[Envelope], *, is_repetition: bool = False) -> None:
        self.publish(
            [
                self._outgoing(
                    envelope.message.queue_name,
                    envelope.body,
                    envelope.due,
                    codec.properties(
                        envelope.message.message_id, priority=_priority(envelope.message.options)
                    ),
                )
                for envelope in envelopes
            ]
        )

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish messages; RabbitMQ has them all when this returns.

        Raises:
            BrokerUnavailable, BrokerRefused: as :meth:`.publisher.Publisher.publish_all`.
        """
        if messages:
            self._publisher.publish_all(messages)

    def _outgoing(self, queue: str, body: bytes, due: int | None, head: bytes) -> Outgoing:
        if due is not None:
            delay_ms = due - self.clock.time() * 1000
            if delay_ms > 0:
                exchange, routing_key = delay_route(queue, delay_ms)
                return Outgoing(queue, exchange, routing_key, head, body)
        return Outgoing(queue, "", queue, head, body)

    def head(self, id: str, body: bytes) -> bytes:
        """The properties of a message that is written anew, with the priority in its body."""
        priority = _priority_in(body) if self.topology.max_priority else None
        return codec.properties(id, priority=priority)

    def write(self, queue: str, writes: Sequence[Write]) -> None:
        """Publish what settlements write, in one go.

        Raises:
            as :meth:`publish`.
        """
        exchange = self.topology.dead_exchange(queue)
        self.publish(
            [
                Outgoing(queue, exchange, queue, self._head(write), write.body)
                if write.due is None
                else self._outgoing(queue, write.body, write.due, self._head(write))
                for write in writes
            ]
        )

    def _head(self, write: Write) -> bytes:
        headers = None if write.failure is None else recorded(write.failure)
        priority = write.priority if self.topology.max_priority else None
        return codec.properties(write.message_id, priority=priority, headers=headers)

    # -- the way out -------------------------------------------------------------------

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> RelayConsumer:
        """A consumer of a queue; coalescing, where a batch actor is declared on it."""
        batching = self.batching(queue_name)
        if batching:
            # One batch at work and one being collected.
            prefetch = max(prefetch, 2 * max(one.size for one in batching.values()))
        limit = (self.options.concurrency or {}).get(queue_name)
        begun = self.begun_at_a_time(queue_name)
        if begun is not None:
            # Those that are begun keep no thread, and those that wait for long are not to hold
            # up others; RabbitMQ counts all alike.
            prefetch = max(prefetch, (2 + MOST_ASIDE) * begun)
        if batching or begun is not None:
            limit = None
        if limit is not None:
            prefetch = min(prefetch, limit)
        consumer = RabbitConsumer(
            self,
            queue_name,
            prefetch=prefetch,
            timeout_ms=timeout,
            limit=limit,
            fixed_prefetch=limit is not None or bool(batching),
        )
        return CoalescingConsumer(consumer, batching) if batching else consumer

    # -- operations ----------------------------------------------------------------------

    def ping(self, queues: Collection[str] | None = None) -> None:
        link = self.connect()
        try:
            self.declared.forget()
            self.declared.ensure(link, sorted(self.queues if queues is None else queues))
        finally:
            link.close()

    def try_access(self) -> list[str]:
        return try_access(self, self.queues)

    def flush(self, queue_name: str) -> None:
        """Drop the waiting messages of a queue; never the dead ones.

        The scheduled ones cannot be dropped by queue: the delay queues are shared.
        """
        with self.control() as link:
            self.declared.ensure(link, [queue_name])
            link.call(spec.Queue.Purge(queue=queue_name))

    @property
    def inspector(self) -> Inspector:
        return RabbitInspector(self)

    def counts(self, queue: str) -> QueueCounts:
        return self.inspector.counts(queue)

    def dead_letters(self, queue: str, *, limit: int = 100) -> Iterator[DeadLetter]:
        for one in self.inspector.dead_letters(DeadFilter(queue), limit=limit):
            yield DeadLetter(queue, one.id, one.message, one.failure)

    def replay(self, queue: str, id: str) -> bool:
        return bool(self.inspector.replay([id], queue=queue))

    def delete_dead(self, queue: str, id: str) -> bool:
        return bool(self.inspector.delete_dead([id], queue=queue))

    @contextmanager
    def control(self) -> Iterator[Link]:
        """A connection for questions and orders, free of publishes under way.

        Raises:
            BrokerUnavailable, BrokerRefused
        """
        with self._publisher.link() as link:
            self.declared.ensure(link, [])
            yield link

    def close(self) -> None:
        """Close the connections of this process."""
        self._publisher.close()


def _priority_in(body: bytes) -> int | None:
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        return _priority(orjson.loads(body)["options"])
    return None


def _priority(options: dict[str, Any]) -> int | None:
    priority = options.get("broker_priority")
    return priority if isinstance(priority, int) and 0 <= priority <= 9 else None
