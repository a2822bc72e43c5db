"""Publishes with confirms, on a pool of connections that all threads of a process share."""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile

import orjson
from pika import spec

from ...core.clock import Clock
from ...core.errors import BrokerError
from ...core.failure import Failure
from ..envelope import Envelope
from ..errors import BrokerRefused, BrokerUnavailable
from ..settlement import Write
from . import codec
from .connection import Connection
from .declarations import Declared
from .errors import (
    NOT_FOUND,
    ChannelClosed,
    NoAnswer,
    PartlyRefused,
    PublishersBlocked,
    PublishInterrupted,
)
from .servers import address, servers
from .topology import Topology, delay_route

#: The header of a dead letter that holds its failure record if the body does not.
FAILURE_HEADER = "x-formrelay-failure"
#: Seconds without received bytes after which a connection is checked before it publishes.
_CHECK_AFTER = 0.1
#: Seconds after which an idle connection is closed.
_CLOSE_AFTER = 30.0


@dataclass(frozen=True, slots=True)
class Publication:
    """A message to publish.

    Attributes:
        queue: its work queue, which is declared first; None if it goes to another queue.
        head: encoded properties.
    """

    queue: str | None
    exchange: str
    routing_key: str
    head: bytes
    body: bytes


class RabbitClient:
    """Connects to RabbitMQ, declares the topology and publishes, for all threads of a process.

    The pool holds as many connections as threads recently published at the same time. A child
    process does not use the connections of its parent.

    Args:
        url: see :func:`.servers.servers`.
        timeout: to connect, and to wait for one answer.

    Raises:
        ConfigError: the URL is invalid.
    """

    def __init__(self, url: str, topology: Topology, *, timeout: timedelta, clock: Clock) -> None:
        self.servers = servers(url, timeout=timeout)
        self.topology = topology
        self.clock = clock
        self.declared = Declared(topology)
        self._idle: deque[Connection] = deque()
        self._pid = os.getpid()

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
            f"expected one of the RabbitMQ servers {', '.join(map(address, self.servers))} to "
            f"answer, got no answer ({failures[-1].message}); check that a server runs and that "
            "RABBITMQ_URL is right"
        )

    @contextmanager
    def connection(
        self, queues: Iterable[str] = (), *, to_publish: bool = False
    ) -> Iterator[Connection]:
        """Lend a connection with confirms to the calling thread.

        Args:
            queues: work queues to declare first, unless that was done already.
            to_publish: first check that the server accepts publishes.

        Raises:
            BrokerUnavailable, BrokerRefused
        """
        connection = self._take(to_publish=to_publish)
        try:
            self.declared.ensure(connection, queues)
            yield connection
        except BaseException:
            # An answer may be on its way, also after Dramatiq's time limit interrupted the caller.
            connection.abort()
            raise
        if connection.is_open:
            self._give_back(connection)

    def _give_back(self, connection: Connection) -> None:
        idle = self._idle
        idle.append(connection)
        # Close one connection at a time, so that no send waits for many to close.
        try:
            oldest = idle.popleft()
        except IndexError:  # another thread has taken it meanwhile
            return
        if oldest is not connection and time.monotonic() - oldest.received_at > _CLOSE_AFTER:
            oldest.close()
        else:
            idle.appendleft(oldest)

    def _take(self, *, to_publish: bool) -> Connection:
        while (connection := self._next_idle()) is not None:
            # Before reading: an unread heartbeat, for example, may have been sent long ago.
            is_fresh = time.monotonic() - connection.received_at <= _CHECK_AFTER
            try:
                connection.read(0)
                if to_publish and not is_fresh:
                    connection.probe([""])
                return connection
            except (NoAnswer, PublishersBlocked):
                raise
            except (BrokerUnavailable, BrokerRefused):
                # Lost while it was idle, since an idle connection sends no heartbeats. The other
                # connections have been idle for longer, and the server may have lost its queues.
                self.close()
                self.declared.forget()
        connection = self.connect()
        try:
            connection.call(spec.Confirm.Select())
            if to_publish:
                connection.probe([""])
        except BaseException:
            connection.abort()
            raise
        return connection

    def _next_idle(self) -> Connection | None:
        if self._pid != os.getpid():
            # After a fork: closing the parent's connections would close them for the parent too.
            self._idle, self._pid = deque(), os.getpid()
        with suppress(IndexError):
            return self._idle.pop()
        return None

    def close(self) -> None:
        """Close the idle connections of this process."""
        while (connection := self._next_idle()) is not None:
            connection.close()

    # -- publishing --------------------------------------------------------------------

    def put(self, envelopes: Sequence[Envelope]) -> None:
        """Publish new messages; a message with a due time goes to the delay queues.

        Raises:
            as :meth:`publish`.
        """
        self.publish(
            [
                Publication(
                    envelope.message.queue_name,
                    *self._route(envelope.message.queue_name, envelope.due),
                    codec.properties(envelope.message.message_id, priority=envelope.priority),
                    envelope.body,
                )
                for envelope in envelopes
            ]
        )

    def write(self, queue: str, writes: Sequence[Write]) -> None:
        """Publish the messages of settlements in one call.

        Raises:
            as :meth:`publish`.
        """
        to_dead = self.topology.dead_exchange(queue), queue
        self.publish(
            [
                Publication(
                    queue,
                    *(to_dead if write.due is None else self._route(queue, write.due)),
                    self.head(write.message_id, write.priority, write.failure),
                    write.body,
                )
                for write in writes
            ]
        )

    def head(self, id: str, priority: int | None, failure: Failure | None = None) -> bytes:
        """Encode properties, with the priority if the work queues have priorities."""
        headers = None
        if failure is not None:
            headers = {FAILURE_HEADER: orjson.dumps(failure.to_json()).decode()}
        priority = priority if self.topology.max_priority else None
        return codec.properties(id, priority=priority, headers=headers)

    def _route(self, queue: str, due: int | None) -> tuple[str, str]:
        """Return the exchange and routing key for a due time (unix milliseconds; None: now)."""
        delay_ms = 0 if due is None else due - self.clock.time() * 1000
        return delay_route(queue, delay_ms) if delay_ms > 0 else ("", queue)

    def publish(self, messages: Sequence[Publication]) -> None:
        """Publish messages in order; returns when RabbitMQ has confirmed all of them.

        A missing queue is declared again once, and a lost connection is replaced once. Messages
        that were not confirmed are then published again, so a message may be on its queue twice,
        which at-least-once allows.

        Raises:
            PartlyRefused: some messages were returned or nacked; the others are on their queues.
            PublishInterrupted: a message was refused; it is unknown whether RabbitMQ took some of
                the others.
            BrokerUnavailable, BrokerRefused: the text says how many messages are on their queues,
                and how many may be.
        """
        call = _Call(messages)
        for is_last in (False, True):
            try:
                queues = {one.queue for one in call.waiting.values() if one.queue is not None}
                with self.connection(queues, to_publish=True) as connection:
                    call.send(connection)
                    if call.nacked:
                        # RabbitMQ 3.10 remembers for this channel that the queue is full, even
                        # after its limit was raised.
                        connection.close()
            except (BrokerUnavailable, ChannelClosed) as error:
                cannot_retry = isinstance(error, NoAnswer | PublishersBlocked) or not call.is_sent
                is_lost = not isinstance(error, ChannelClosed) or error.code == NOT_FOUND
                if is_last or cannot_retry or not is_lost:
                    raise call.with_counts(error) from None
            if not call.waiting:
                break
            self.declared.forget()
        call.raise_for_refused()


class _Call:
    """The messages of one call and their confirms.

    Attributes:
        waiting: the messages that are not confirmed or were returned, by position.
        is_sent: whether a message may have reached the server.
        nacked: positions of the messages that the server did not take.
    """

    def __init__(self, messages: Sequence[Publication]) -> None:
        self.waiting = dict(enumerate(messages))
        self.is_sent = False
        self._count = len(messages)
        self.nacked: list[int] = []

    def send(self, connection: Connection) -> None:
        """Publish the waiting messages, and wait until each is confirmed, nacked or returned."""
        positions = list(self.waiting)
        # Confirms count the messages published on the connection, from 1.
        position_by_tag = dict(enumerate(positions, start=connection.published + 1))
        self.is_sent = True
        connection.publish(
            [
                codec.publish(
                    one.exchange, one.routing_key, one.head, one.body, connection.max_frame_body
                )
                for one in self.waiting.values()
            ]
        )
        returned: set[int] = set()
        deadline = time.monotonic() + connection.timeout
        while position_by_tag:
            if not connection.confirms:
                connection.wait(deadline)
                continue
            # The server returns a message before it confirms it.
            for content in connection.returned:
                returned.add(self._position_of(content, returned))
            connection.returned.clear()
            self._apply_confirms(connection.confirms, position_by_tag, returned)
            deadline = time.monotonic() + connection.timeout

    def _position_of(self, content: codec.Content, returned: set[int]) -> int:
        method, body = content.method, content.body
        return next(
            position
            for position, one in self.waiting.items()
            if position not in returned
            and (one.exchange, one.routing_key) == (method.exchange, method.routing_key)
            and one.body == body
        )

    def _apply_confirms(
        self, confirms: deque[codec.Confirm], position_by_tag: dict[int, int], returned: set[int]
    ) -> None:
        while confirms:
            confirm = confirms.popleft()
            last = confirm.delivery_tag
            tags = [last]
            if confirm.multiple:
                tags = list(takewhile(last.__ge__, position_by_tag))
            for tag in tags:
                position = position_by_tag.pop(tag, None)
                if position is None or position in returned:
                    continue
                del self.waiting[position]
                if not confirm.taken:
                    self.nacked.append(position)

    def with_counts(self, error: BrokerUnavailable | ChannelClosed) -> BrokerError:
        """Return the error, with the number of messages that are on their queues in its text."""
        taken = self._count - len(self.waiting) - len(self.nacked)
        text = "; nothing was enqueued"
        if self.is_sent:
            text = (
                f"; of {self._count} messages {taken} are on their queues, and any of the other "
                f"{self._count - taken} may be"
            )
        if isinstance(error, ChannelClosed):
            if self.is_sent:
                return PublishInterrupted(
                    error.message + text, error, sorted((*self.waiting, *self.nacked))
                )
            return BrokerRefused(error.message + text)
        return type(error)(error.message + text)

    def raise_for_refused(self) -> None:
        """Raise :class:`PartlyRefused` if messages were returned or nacked."""
        refused = sorted((*self.waiting, *self.nacked))
        if not refused:
            return
        cause = "it has no queue for them; check that their queues exist"
        if self.nacked:
            cause = "it did not take them (nack); check whether a queue is full"
        raise PartlyRefused(
            f"RabbitMQ refused {len(refused)} of {self._count} messages, the others are on their "
            f"queues; {cause}",
            refused,
            self._count,
        )
