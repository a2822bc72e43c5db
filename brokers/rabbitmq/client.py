"""Publishes with confirms, on a pool of connections that all threads of a process share."""

from __future__ import annotations

import math
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import orjson
from pika import spec

from ...core.clock import Clock
from ...core.failure import Failure
from ..envelope import Envelope
from ..errors import BrokerRefused, BrokerUnavailable
from ..settlement import Write
from . import codec
from .connection import Connection
from .declarations import Declared
from .errors import NOT_FOUND, ChannelClosed, NoAnswer, PublishersBlocked
from .group_commit import MAX_SHARED_BYTES, GroupCommit, SharedFailure
from .publish_call import Publication, PublishCall, publish_and_confirm
from .servers import address, servers
from .topology import Topology, delay_route

#: The header of a dead letter that holds its failure record if the body does not.
FAILURE_HEADER = "x-formrelay-failure"
#: Seconds without received bytes after which a connection is checked before it publishes. Less
#: would mean a second round trip for more sends. If the server has begun to block publishers since
#: the last byte, the send fails, but RabbitMQ may accept the message hours later; the error says
#: that it may be on its queue.
_CHECK_AFTER = 10.0
#: Seconds after which an idle connection is closed.
_CLOSE_AFTER = 30.0


class RabbitClient:
    """Connects to RabbitMQ, declares the topology and publishes, for all threads of a process.

    The pool holds as many connections as calls were recently made at the same time. A child
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
        #: By work queue, so that a queue that does not answer delays no send to other queues.
        self._group_commits: dict[str, GroupCommit] = {}
        #: When the server last did not answer, monotonic seconds.
        self._in_doubt_at = -math.inf

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
            received_at = connection.received_at
            is_fresh = received_at > max(time.monotonic() - _CHECK_AFTER, self._in_doubt_at)
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

        Single messages that threads publish at the same time share a write
        (:mod:`.group_commit`).

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
        call = PublishCall(messages)
        sends: list[Callable[[PublishCall], None]] = [self._send_shared, self._send]
        for number, send in enumerate(sends):
            try:
                send(call)
            except SharedFailure:
                # Another thread's message may be the cause, so this attempt does not count: send
                # this message alone, with its usual retry.
                sends.append(self._send)
                continue
            except (BrokerUnavailable, ChannelClosed) as error:
                cannot_retry = isinstance(error, NoAnswer | PublishersBlocked) or not call.is_sent
                is_lost = not isinstance(error, ChannelClosed) or error.code == NOT_FOUND
                if isinstance(error, NoAnswer | PublishersBlocked):
                    self._in_doubt_at = time.monotonic()
                if number == len(sends) - 1 or cannot_retry or not is_lost:
                    raise call.with_counts(error) from None
            if not call.waiting:
                break
            self.declared.forget()
        call.raise_for_refused()

    def _send_shared(self, call: PublishCall) -> None:
        """Publish a call; a single small message may share a write with other threads' messages."""
        queue = call.queue_to_share(MAX_SHARED_BYTES)
        if queue is None:
            self._send(call)
            return
        group_commit = self._group_commits.get(queue)
        if group_commit is None:
            group_commit = self._group_commits.setdefault(queue, GroupCommit())
        group_commit.send(call, self._send)

    def _send(self, *calls: PublishCall) -> None:
        """Publish the messages of calls on one connection, in one write."""
        queues = set().union(*(call.queues for call in calls))
        with self.connection(queues, to_publish=True) as connection:
            publish_and_confirm(connection, calls)
            if any(call.nacked for call in calls):
                # RabbitMQ 3.10 remembers for this channel that the queue is full, even after its
                # limit was raised.
                connection.close()
