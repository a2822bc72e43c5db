"""The connections of one process to RabbitMQ, its declarations and its publishes."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import orjson

from ...core.clock import Clock
from ..contract import Envelope
from ..errors import BrokerUnavailable
from ..settlement import Write
from . import codec
from .connection import Connection
from .declarations import Declared
from .publisher import Publication, Publisher
from .servers import address, servers
from .topology import Topology, delay_route

#: The header of a dead letter that holds its failure record if the body does not.
FAILURE_HEADER = "x-formrelay-failure"


class RabbitClient:
    """Connects to RabbitMQ, declares the topology and publishes, for all threads of a process.

    Args:
        url: see :func:`.servers.servers`.
        timeout: to connect, and to wait for one answer.

    Raises:
        ConfigError: the URL is invalid.
    """

    def __init__(self, url: str, topology: Topology, *, timeout: timedelta, clock: Clock) -> None:
        self.servers = servers(url, timeout=timeout)
        self.where = ", ".join(address(server) for server in self.servers)
        self.topology = topology
        self.clock = clock
        self.declared = Declared(topology, self.connect)
        self.publisher = Publisher(self.connect, self.declared)

    # -- connections -------------------------------------------------------------------

    def connect(self) -> Connection:
        """Open a connection to any of the servers, for the caller alone.

        Raises:
            BrokerUnavailable: no server can be reached.
            BrokerRefused: a server refused the user, the password or the virtual host.
        """
        failures = []
        for server in random.sample(self.servers, len(self.servers)):
            try:
                return Connection(server)
            except BrokerUnavailable as error:
                failures.append(error)
        if len(failures) == 1:
            raise failures[0]
        raise BrokerUnavailable(
            f"expected one of the RabbitMQ servers {self.where} to answer, got no answer "
            f"({failures[-1].message}); check that a server runs and that RABBITMQ_URL is right"
        )

    @contextmanager
    def control(self) -> Iterator[Connection]:
        """A connection for inspection and management, with no publish in progress.

        Raises:
            BrokerUnavailable, BrokerRefused
        """
        with self.publisher.connection() as connection:
            self.declared.ensure(connection, [])
            yield connection

    def ping(self, queues: Collection[str]) -> None:
        """Connect, and declare the topology of these work queues again.

        Raises:
            BrokerUnavailable, BrokerRefused
        """
        connection = self.connect()
        try:
            self.declared.forget()
            self.declared.ensure(connection, sorted(queues))
        finally:
            connection.close()

    def close(self) -> None:
        """Close the idle connections of this process."""
        self.publisher.close()

    # -- publishing --------------------------------------------------------------------

    def put(self, envelopes: Sequence[Envelope]) -> None:
        """Publish new messages; a message with a due time goes to the delay queues.

        Raises:
            as :meth:`publish`.
        """
        self.publish(
            [
                self._publication(
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

    def publish(self, messages: Sequence[Publication]) -> None:
        """Publish messages; returns when RabbitMQ has confirmed all of them.

        Raises:
            BrokerUnavailable, BrokerRefused: as :meth:`.publisher.Publisher.publish_all`.
        """
        if messages:
            self.publisher.publish_all(messages)

    def head(self, id: str, body: bytes) -> bytes:
        """Encode the properties of a replayed dead letter, with the priority in its body."""
        priority = _priority_in(body) if self.topology.max_priority else None
        return codec.properties(id, priority=priority)

    def write(self, queue: str, writes: Sequence[Write]) -> None:
        """Publish the messages of settlements in one call.

        Raises:
            as :meth:`publish`.
        """
        exchange = self.topology.dead_exchange(queue)
        self.publish(
            [
                Publication(queue, exchange, queue, self._head(write), write.body)
                if write.due is None
                else self._publication(queue, write.body, write.due, self._head(write))
                for write in writes
            ]
        )

    def _head(self, write: Write) -> bytes:
        headers = (
            None
            if write.failure is None
            else {FAILURE_HEADER: orjson.dumps(write.failure.to_json()).decode()}
        )
        priority = write.priority if self.topology.max_priority else None
        return codec.properties(write.message_id, priority=priority, headers=headers)

    def _publication(self, queue: str, body: bytes, due: int | None, head: bytes) -> Publication:
        if due is not None:
            delay_ms = due - self.clock.time() * 1000
            if delay_ms > 0:
                exchange, routing_key = delay_route(queue, delay_ms)
                return Publication(queue, exchange, routing_key, head, body)
        return Publication(queue, "", queue, head, body)


def _priority_in(body: bytes) -> int | None:
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        return _priority(orjson.loads(body)["options"])
    return None


def _priority(options: dict[str, Any]) -> int | None:
    priority = options.get("broker_priority")
    return priority if isinstance(priority, int) and 0 <= priority <= 9 else None
