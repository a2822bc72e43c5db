"""The consumer of one queue on RabbitMQ.

Its connection belongs to Dramatiq's consumer thread. Worker threads publish
what is to be retried or buried (with a confirm) on connections of their own,
and hand acknowledgements over.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pika
from dramatiq import MessageProxy

from ...middleware.delivery import Delivery
from ..consumer import RelayConsumer
from ..errors import BrokerUnavailable
from ..settlement import Settlement, settled_tags
from .connection import translated

if TYPE_CHECKING:
    from .broker import RabbitBroker


class Tag:
    """A delivery tag, and the consumer on whose connection it means something."""

    __slots__ = ("consumer", "number")

    def __init__(self, consumer: RabbitConsumer, number: int) -> None:
        self.consumer = consumer
        self.number = number


class RabbitConsumer(RelayConsumer):
    """See the module."""

    broker: RabbitBroker

    def __init__(
        self, broker: RabbitBroker, queue_name: str, *, prefetch: int, timeout_ms: int
    ) -> None:
        super().__init__(broker, queue_name, prefetch=prefetch, timeout_ms=timeout_ms)
        self._arrived: deque[tuple[int, Any, bytes]] = deque()
        self._acks: list[int] = []
        self._in_hand: set[int] = set()
        self._lock = Lock()  # guards _acks and _in_hand
        with translated(broker.where):
            self._connection = pika.BlockingConnection(broker.parameters)
            self._channel = self._connection.channel()
            broker.prepare_queue(self._channel, queue_name)
            self._channel.basic_qos(prefetch_count=min(prefetch, 65_535))
            self._consumer_tag = self._channel.basic_consume(queue_name, self._on_message)

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._arrived.append((method.delivery_tag, properties, body))

    # -- receive ---------------------------------------------------------------------

    def receive(self, timeout: float) -> Delivery | None:
        clock = self.broker.clock
        deadline = clock.monotonic() + timeout
        while True:
            while self._arrived:
                delivery = self._take(*self._arrived.popleft())
                if delivery is not None:
                    return delivery
            remaining = deadline - clock.monotonic()
            if remaining <= 0:
                return None
            with translated(self.broker.where):
                self._connection.process_data_events(time_limit=remaining)
                if not self._channel.is_open:
                    raise BrokerUnavailable(
                        f"the channel to RabbitMQ at {self.broker.where} was closed"
                    )

    def _take(self, number: int, properties: Any, body: bytes) -> Delivery | None:
        message_id = properties.message_id or f"amqp-{uuid4()}"
        delivery = self.decoded(body, Tag(self, number), message_id)
        if isinstance(delivery, Settlement):
            self._write(delivery)
            self._acknowledge([number])
            return None
        with self._lock:
            self._in_hand.add(number)
        return delivery

    # -- settle ------------------------------------------------------------------------

    def carry_out(self, settlement: Settlement, delivery: Delivery) -> None:
        tags = list(settled_tags(settlement))
        # Mostly this consumer; after a pause or a lost connection, the one before it.
        owner = tags[0].consumer if tags else self
        if not owner._channel.is_open:
            # RabbitMQ delivers it again; what was decided about the first delivery would
            # be done twice.
            return
        self._write(settlement)
        owner._acknowledge([tag.number for tag in tags])

    def _write(self, settlement: Settlement) -> None:
        """First what must not be lost, confirmed; a crash after it repeats a message."""
        for write in settlement.schedule:
            self.broker.publish_at(self.queue_name, write)
        for write in settlement.bury:
            self.broker.publish_dead(self.queue_name, write)

    def _acknowledge(self, numbers: list[int]) -> None:
        with self._lock:
            is_first = not self._acks
            self._acks += numbers
            self._in_hand.difference_update(numbers)
        if is_first:
            # One wake-up of the other thread for all that gathers until it comes.
            with contextlib.suppress(pika.exceptions.ConnectionWrongStateError):
                self._connection.add_callback_threadsafe(self._send_acks)

    def _send_acks(self) -> None:
        with self._lock:
            numbers, self._acks = self._acks, []
        if self._channel.is_open:
            for number in numbers:
                self._channel.basic_ack(number)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Hand back what was not started; it goes when the connection closes."""
        for message in messages:
            assert isinstance(message, Delivery)
            with message.tag.consumer._lock:
                message.tag.consumer._in_hand.discard(message.tag.number)

    # -- close -------------------------------------------------------------------------

    def close(self) -> None:
        """Take nothing more; close when what was begun is settled.

        Dramatiq closes the consumer of a paused worker as well, which then
        finishes its messages: were the connection closed under them, they
        would be delivered and run a second time.
        """
        if not self._connection.is_open:
            return
        # pika raises more than its own errors when the server goes at this moment, and
        # Dramatiq's consumer thread would die of them. Whatever was not acknowledged comes back.
        with contextlib.suppress(Exception):
            self._channel.basic_cancel(self._consumer_tag)
            for number, _, _ in self._arrived:
                self._channel.basic_nack(number, requeue=True)
            self._arrived.clear()
            if self._in_hand:
                Thread(target=self._drain, name="formrelay-drain", daemon=True).start()
            else:
                self._drain()

    def _drain(self) -> None:
        with contextlib.suppress(Exception):  # as in close()
            while self._in_hand:
                self._connection.process_data_events(time_limit=0.2)
            self._send_acks()
            self._connection.process_data_events(time_limit=0)
            self._connection.close()
