"""Publishes with confirms: sends many messages, then waits for all their confirms."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile

import pika

from ...core.errors import BrokerError
from ..errors import BrokerRefused, BrokerUnavailable
from . import codec
from .connection import Connect, Connection
from .declarations import Declared
from .errors import ChannelClosed, NoAnswer, PartlyRefused, PublishersBlocked, PublishInterrupted

#: Seconds without received bytes after which a connection is checked before it is used.
_CHECK_AFTER = 0.1
#: Seconds after which an idle connection is closed.
_CLOSE_AFTER = 30.0
_NOT_FOUND = 404
_DEFAULT_HEAD = codec.encoded(pika.BasicProperties(delivery_mode=2))


@dataclass(frozen=True, slots=True)
class Publication:
    """A message to publish.

    Attributes:
        queue: its work queue.
        head: encoded properties.
    """

    queue: str
    exchange: str
    routing_key: str
    head: bytes
    body: bytes


class Publisher:
    """Publishes messages on a pool of connections.

    The pool holds as many connections as threads recently published at the same time. A child
    process does not use the connections of its parent.
    """

    def __init__(self, connect: Connect, declared: Declared) -> None:
        self._connect = connect
        self._declared = declared
        self._idle: deque[Connection] = deque()
        self._pid = os.getpid()

    # -- connections -------------------------------------------------------------------

    @contextmanager
    def connection(self, *, to_publish: bool = False) -> Iterator[Connection]:
        """Lend a connection with confirms to the calling thread.

        Args:
            to_publish: first check that the server accepts publishes.
        """
        connection = self._take(to_publish=to_publish)
        try:
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
        oldest = idle.popleft()
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
                    connection.check()
                return connection
            except (NoAnswer, PublishersBlocked):
                raise
            except (BrokerUnavailable, BrokerRefused):
                # Lost while it was idle, since an idle connection sends no heartbeats. The other
                # connections have been idle for longer, and the server may have lost its queues.
                self.close()
                self._declared.forget()
        connection = self._connect()
        try:
            connection.confirm()
            if to_publish:
                connection.check()
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
        """Close the idle connections."""
        while (connection := self._next_idle()) is not None:
            connection.close()

    # -- publishing --------------------------------------------------------------------

    def publish(
        self, exchange: str, routing_key: str, body: bytes, properties: pika.BasicProperties | None
    ) -> None:
        """Publish one message with a queue's name as routing key.

        Raises:
            as :meth:`publish_all`.
        """
        head = codec.encoded(properties) if properties is not None else _DEFAULT_HEAD
        self.publish_all([Publication(routing_key, exchange, routing_key, head, body)])

    def publish_all(self, messages: Sequence[Publication]) -> None:
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
                with self.connection(to_publish=True) as connection:
                    self._declared.ensure(
                        connection, {message.queue for message in call.waiting.values()}
                    )
                    call.send(connection)
                    if call.nacked:
                        # RabbitMQ 3.10 remembers for this channel that the queue is full, even
                        # after its limit was raised.
                        connection.close()
            except (BrokerUnavailable, ChannelClosed) as error:
                cannot_retry = isinstance(error, NoAnswer | PublishersBlocked) or not call.is_sent
                is_lost = not isinstance(error, ChannelClosed) or error.code == _NOT_FOUND
                if is_last or cannot_retry or not is_lost:
                    raise call.with_counts(error) from None
            if not call.waiting:
                break
            self._declared.forget()
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
        """The error, extended by how many messages are on their queues."""
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
