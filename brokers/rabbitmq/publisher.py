"""Publishing with confirms: many messages sent, then all their confirms waited for."""

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
from .errors import Blocked, ChannelClosed, Interrupted, NotTaken, Silent

#: After so many seconds of silence a connection is tried before anything is sent on it.
_FRESH_SECONDS = 0.1
#: Nobody has needed a connection that was idle for so long.
_IDLE_SECONDS = 30.0
_NOT_FOUND = 404
_PLAIN = codec.encoded(pika.BasicProperties(delivery_mode=2))


@dataclass(frozen=True, slots=True)
class Publication:
    """One message to be published.

    Attributes:
        queue: the work queue that it belongs to.
        head: its encoded properties.
    """

    queue: str
    exchange: str
    routing_key: str
    head: bytes
    body: bytes


class Publisher:
    """Publishes, and returns when RabbitMQ has confirmed all of it.

    Connections are taken by the thread that needs one and given back, so there
    are as many as threads that published at one time of late. Those inherited
    through a fork are left alone.
    """

    def __init__(self, connect: Connect, declared: Declared) -> None:
        self._connect = connect
        self._declared = declared
        self._idle: deque[Connection] = deque()
        self._pid = os.getpid()

    # -- connections -------------------------------------------------------------------

    @contextmanager
    def connection(self, *, to_publish: bool = False) -> Iterator[Connection]:
        """A connection with confirms on, this thread's until the end of the block.

        Args:
            to_publish: make sure first that what is published will be looked at.
        """
        connection = self._taken(to_publish=to_publish)
        try:
            yield connection
        except BaseException:
            # Half an answer may be under way, also where a time limit ended the caller.
            connection.abort()
            raise
        if connection.is_open:
            self._give_back(connection)

    def _give_back(self, connection: Connection) -> None:
        idle = self._idle
        idle.append(connection)
        # One at a time, so that nobody's sending has to wait for the end of many.
        oldest = idle.popleft()
        if oldest is not connection and time.monotonic() - oldest.heard_at > _IDLE_SECONDS:
            oldest.close()
        else:
            idle.appendleft(oldest)

    def _taken(self, *, to_publish: bool) -> Connection:
        while (connection := self._next_idle()) is not None:
            # Asked before reading: what is read now, a heartbeat say, may have come long ago.
            is_fresh = time.monotonic() - connection.heard_at <= _FRESH_SECONDS
            try:
                connection.read(0)
                if to_publish and not is_fresh:
                    connection.check()
                return connection
            except (Silent, Blocked):
                raise
            except (BrokerUnavailable, BrokerRefused):
                # Lost while it was idle: the server ends those that send no heartbeats. The
                # others are older still; and it may have come back without its queues.
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
            # After a fork: the parent's. To close them would end them for the parent too.
            self._idle, self._pid = deque(), os.getpid()
        with suppress(IndexError):
            return self._idle.pop()
        return None

    def close(self) -> None:
        """Close the connections that are not in use."""
        while (connection := self._next_idle()) is not None:
            connection.close()

    # -- publishing --------------------------------------------------------------------

    def publish(
        self, exchange: str, routing_key: str, body: bytes, properties: pika.BasicProperties | None
    ) -> None:
        """Publish one message by its queue's name.

        Raises:
            as :meth:`publish_all`.
        """
        head = codec.encoded(properties) if properties is not None else _PLAIN
        self.publish_all([Publication(routing_key, exchange, routing_key, head, body)])

    def publish_all(self, messages: Sequence[Publication]) -> None:
        """Publish messages, in order; RabbitMQ has them all when it returns.

        A queue that is gone is declared again, once; and a connection that is
        lost in the middle is replaced, once. What was not confirmed is then sent
        a second time, and may so be there twice, which at-least-once allows.

        Raises:
            NotTaken: some were returned or nacked; the others are on their queues.
            Interrupted: one was refused, so that nobody knows of some others.
            BrokerUnavailable, BrokerRefused: the text says how many are on their
                queues, and how many may be.
        """
        call = _Call(messages)
        for is_last in (False, True):
            try:
                with self.connection(to_publish=True) as connection:
                    self._declared.ensure(connection, {one.queue for one in call.waiting.values()})
                    call.send(connection)
                    if call.nacked:
                        # RabbitMQ remembers for this channel that the queue is full, also when
                        # its limit has been lifted since (3.10).
                        connection.close()
            except (BrokerUnavailable, ChannelClosed) as error:
                is_over = isinstance(error, Silent | Blocked) or not call.is_sent
                is_gone = not isinstance(error, ChannelClosed) or error.code == _NOT_FOUND
                if is_last or is_over or not is_gone:
                    raise call.explained(error) from None
            if not call.waiting:
                break
            self._declared.forget()
        call.raise_for_refused()


class _Call:
    """The messages of one call, and how far they are.

    Attributes:
        waiting: by position, what is not confirmed, or was given back by the server.
        is_sent: whether any may have reached the server.
        nacked: positions of those that the server did not take.
    """

    def __init__(self, messages: Sequence[Publication]) -> None:
        self.waiting = dict(enumerate(messages))
        self.is_sent = False
        self._count = len(messages)
        self.nacked: list[int] = []

    def send(self, connection: Connection) -> None:
        """Publish what waits, and wait until each was confirmed, nacked or given back."""
        positions = list(self.waiting)
        # By the number that the server's confirms use.
        numbered = dict(enumerate(positions, start=connection.published + 1))
        self.is_sent = True
        connection.publish(
            [
                codec.publish(
                    one.exchange, one.routing_key, one.head, one.body, connection.body_room
                )
                for one in self.waiting.values()
            ]
        )
        returned: set[int] = set()
        deadline = time.monotonic() + connection.timeout
        while numbered:
            if not connection.confirms:
                connection.wait(deadline)
                continue
            # The server gives a message back before it confirms it.
            for content in connection.returned:
                returned.add(self._position_of(content, returned))
            connection.returned.clear()
            self._sort(connection.confirms, numbered, returned)
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

    def _sort(
        self, confirms: deque[codec.Confirm], numbered: dict[int, int], returned: set[int]
    ) -> None:
        while confirms:
            confirm = confirms.popleft()
            last = confirm.number
            numbers = [last]
            if confirm.multiple:
                numbers = list(takewhile(last.__ge__, numbered))
            for number in numbers:
                position = numbered.pop(number, None)
                if position is None or position in returned:
                    continue
                del self.waiting[position]
                if not confirm.taken:
                    self.nacked.append(position)

    def explained(self, error: BrokerUnavailable | ChannelClosed) -> BrokerError:
        """The error, with what became of the messages."""
        taken = self._count - len(self.waiting) - len(self.nacked)
        text = "; nothing was enqueued"
        if self.is_sent:
            text = (
                f"; of {self._count} messages {taken} are on their queues, and any of the other "
                f"{self._count - taken} may be"
            )
        if isinstance(error, ChannelClosed):
            if self.is_sent:
                return Interrupted(
                    error.message + text, error, sorted((*self.waiting, *self.nacked))
                )
            return BrokerRefused(error.message + text)
        return type(error)(error.message + text)

    def raise_for_refused(self) -> None:
        """
        Raises:
            NotTaken: there are some.
        """
        refused = sorted((*self.waiting, *self.nacked))
        if not refused:
            return
        cause = "it has no queue for them: were they deleted, or never there?"
        if self.nacked:
            cause = "it did not take them (nack): is a queue full?"
        raise NotTaken(
            f"RabbitMQ refused {len(refused)} of {self._count} messages, the others are on their "
            f"queues; {cause}",
            refused,
            self._count,
        )
