"""Names and declarations of queues and exchanges: work queues, dead-letter queues, delay queues.

The work queue ``webhooks`` dead-letters through the exchange ``dlx.webhook`` to the queue
``dlq.webhooks``; the names are those of the system that formrelay replaces. An existing queue can
be adopted: it is used unchanged, with its own dead-letter exchange.

Delays are queues with a time-to-live, one for each bit of the delay. A delay is counted in units of
100 ms and written in binary into the routing key. A message enters at its highest bit. If a bit is
1, the message waits in the queue of that bit for the queue's time-to-live and is then dead-lettered
to the exchange of the next bit; if it is 0, the exchange passes the message on at once. The last
exchange delivers it to its work queue. This needs no consumer and no plugin, and since all messages
of a delay queue have the same time-to-live, no message waits behind a longer delay.

If the work queue is gone when a message is due, the message goes to the dead-letter queue of that
queue, or, if that is gone too, to one queue for all work queues (:data:`UNCLAIMED`). Otherwise
classic queues would drop the message, and quorum queues would keep it, until enough such messages
block the delay queue for every work queue.

The design follows NServiceBus's delay infrastructure:
https://docs.particular.net/transports/rabbitmq/delayed-delivery
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pika import spec

from ..errors import BrokerRefused

#: Without these arguments RabbitMQ may drop a message that it dead-letters from a quorum queue.
_AT_LEAST_ONCE = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}

#: By default RabbitMQ 4 dead-letters or drops a message that was requeued 20 times. formrelay
#: requeues a dead letter each time it is listed, and a job when its worker stops or its queue is
#: paused. RabbitMQ's value for "no limit", -1, makes RabbitMQ 3.10 drop the message at once.
_NO_DELIVERY_LIMIT = {"x-delivery-limit": 2**31 - 1}

#: 25 bits of 100 ms are 38 days.
_DELAY_UNIT_MS = 100
DELAY_QUEUES = 25
_MAX_DELAY_MS = (2**DELAY_QUEUES - 1) * _DELAY_UNIT_MS

#: Prefix of the names of formrelay's own queues, through which messages reach the work queues.
OWN_PREFIX = "formrelay."
_DELAY = f"{OWN_PREFIX}delay"
_DELIVERY = f"{_DELAY}.delivery"
#: The exchange for due messages that no work queue takes, and the exchange and queue for messages
#: that no dead-letter queue takes either.
_UNDELIVERED = f"{_DELAY}.undelivered"
UNCLAIMED = f"{_DELAY}.unclaimed"


@dataclass(frozen=True, slots=True)
class Topology:
    """The names, declarations and bindings of queues and exchanges.

    Attributes:
        queue_type: ``quorum`` (replicated) or ``classic``.
        workers: worker name by queue, for the names of dead-letter exchanges; the default is the
            name of the queue.
        retention: how long dead letters are kept.
        max_priority: makes the work queues classic priority queues with this highest priority.
        adopted: existing queues to use unchanged, each with its dead-letter exchange; None for
            the default, ``dlx.<worker>``.
    """

    queue_type: str
    workers: Mapping[str, str]
    retention: timedelta
    max_priority: int | None = None
    adopted: Mapping[str, str | None] = field(default_factory=dict)

    def dead_exchange(self, queue: str) -> str:
        return self.adopted.get(queue) or f"dlx.{self.workers.get(queue, queue)}"

    def dead_queue(self, queue: str) -> str:
        return f"dlq.{queue}"

    def is_classic(self, name: str) -> bool:
        """Whether a dead-letter queue is known to be a classic queue."""
        return self.queue_type == "classic" and name not in self.adopted

    def is_foreign_exchange(self, queue: str) -> bool:
        """Whether the dead-letter exchange belongs to another system; it may be of any type."""
        return self.adopted.get(queue) is not None

    def of_queue(self, queue: str) -> list[Any]:
        """Return the declarations and bindings of a work queue and its dead-letter queue."""
        exchange, dead = self.dead_exchange(queue), self.dead_queue(queue)
        retention = {"x-message-ttl": int(self.retention / timedelta(milliseconds=1))}
        arguments: dict[str, Any] = {
            "x-dead-letter-exchange": exchange,
            "x-dead-letter-routing-key": queue,
        }
        if self.max_priority:
            arguments |= {"x-queue-type": "classic", "x-max-priority": self.max_priority}
        due = f"#.{_routing_word(queue)}"
        return [
            spec.Exchange.Declare(exchange=exchange, type="direct", durable=True),
            self._queue(dead, retention, quorum=_NO_DELIVERY_LIMIT),
            self._queue(queue, arguments, quorum=_AT_LEAST_ONCE | _NO_DELIVERY_LIMIT),
            spec.Queue.Bind(queue=dead, exchange=exchange, routing_key=queue),
            spec.Queue.Bind(queue=queue, exchange=_DELIVERY, routing_key=due),
            spec.Queue.Bind(queue=dead, exchange=_UNDELIVERED, routing_key=due),
        ]

    def quarantine_queue(self, queue: str, process: str) -> str:
        """Name of the quarantine queue of a process."""
        return f"{OWN_PREFIX}quarantine.{queue}.{process}"

    def quarantine_declaration(self, queue: str, name: str) -> Any:
        """Return the declaration of a quarantine queue (see :mod:`.crash_loops`)."""
        arguments = {
            "x-message-ttl": 1_000,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": queue,
            # Long after RabbitMQ has moved a dead process's messages back to their queue.
            "x-expires": 24 * 3_600_000,
        }
        return self._queue(name, arguments, quorum=_AT_LEAST_ONCE | _NO_DELIVERY_LIMIT)

    def staging_declaration(self, name: str) -> Any:
        """Return the declaration of a staging queue (see :mod:`.from_stock`)."""
        return self._queue(name, {}, quorum=_NO_DELIVERY_LIMIT)

    def of_delays(self) -> list[Any]:
        """Return the declarations and bindings of the delays, the same for all work queues."""
        found: list[Any] = [
            spec.Exchange.Declare(exchange=UNCLAIMED, type="fanout", durable=True),
            self._queue(UNCLAIMED, {}, quorum=_NO_DELIVERY_LIMIT),
            spec.Queue.Bind(queue=UNCLAIMED, exchange=UNCLAIMED),
            _topic_exchange(_UNDELIVERED, otherwise=UNCLAIMED),
            _topic_exchange(_DELIVERY, otherwise=_UNDELIVERED),
        ]
        after = _DELIVERY
        for bit in range(DELAY_QUEUES):
            name, before = delay_name(bit), "*." * (DELAY_QUEUES - 1 - bit)
            arguments = {
                "x-message-ttl": _DELAY_UNIT_MS * 2**bit,
                "x-dead-letter-exchange": after,
            }
            found += [
                _topic_exchange(name),
                self._queue(name, arguments, quorum=_AT_LEAST_ONCE),
                spec.Queue.Bind(queue=name, exchange=name, routing_key=f"{before}1.#"),
                spec.Exchange.Bind(destination=after, source=name, routing_key=f"{before}0.#"),
            ]
            after = name
        return found

    def _queue(self, name: str, arguments: dict[str, Any], *, quorum: dict[str, Any]) -> Any:
        """Declare a queue.

        Args:
            quorum: further arguments if it is a quorum queue.
        """
        if name in self.adopted:
            return spec.Queue.Declare(queue=name, passive=True)
        arguments = {"x-queue-type": self.queue_type, **arguments}
        if arguments["x-queue-type"] == "quorum":
            arguments |= quorum
        return spec.Queue.Declare(queue=name, durable=True, arguments=arguments)


def delay_route(queue: str, delay_ms: float) -> tuple[str, str]:
    """Return the exchange and routing key that deliver a message to ``queue`` after ``delay_ms``.

    The delay is rounded up to the next unit, so that no message is early.

    Raises:
        BrokerRefused: the delay is longer than the delay queues reach.
    """
    if delay_ms > _MAX_DELAY_MS:
        days = _MAX_DELAY_MS // 86_400_000
        raise BrokerRefused(
            f"expected a delay of at most {days} days on RabbitMQ, got {delay_ms / 86_400_000:.0f}"
        )
    units = max(1, math.ceil(delay_ms / _DELAY_UNIT_MS))
    bits = f"{units:0{DELAY_QUEUES}b}"
    return delay_name(units.bit_length() - 1), ".".join(bits) + "." + _routing_word(queue)


def delay_name(bit: int) -> str:
    """Name of the delay exchange and the delay queue of a bit; bit 0 waits one unit."""
    return f"{_DELAY}.{bit:02d}"


def _routing_word(queue: str) -> str:
    """The name of a queue as one word of a routing key, in which dots separate words."""
    return queue.replace(".", "~")


def _topic_exchange(name: str, *, otherwise: str | None = None) -> Any:
    arguments = {"alternate-exchange": otherwise} if otherwise else None
    return spec.Exchange.Declare(exchange=name, type="topic", durable=True, arguments=arguments)
