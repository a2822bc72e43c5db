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
AT_LEAST_ONCE = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}

#: By default RabbitMQ 4 dead-letters or drops a message that was requeued 20 times. formrelay
#: requeues a dead letter each time it is listed, and a job when its worker stops or its queue is
#: paused. RabbitMQ's value for "no limit", -1, makes RabbitMQ 3.10 drop the message at once.
NO_DELIVERY_LIMIT = {"x-delivery-limit": 2**31 - 1}

#: 25 bits of 100 ms are 38 days.
DELAY_UNIT_MS = 100
DELAY_QUEUES = 25
MAX_DELAY_MS = (2**DELAY_QUEUES - 1) * DELAY_UNIT_MS

_DELAY = "formrelay.delay"
DELIVERY = f"{_DELAY}.delivery"
#: The exchange for due messages that no work queue takes, and the exchange and queue for messages
#: that no dead-letter queue takes either.
UNDELIVERED = f"{_DELAY}.undelivered"
UNCLAIMED = f"{_DELAY}.unclaimed"


@dataclass(frozen=True, slots=True)
class Topology:
    """Builds the declarations of work queues and their dead-letter queues.

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

    def quarantine_queue(self, queue: str, process: str) -> str:
        """Name of the quarantine queue of a process; "trial" is the word of earlier versions."""
        return f"formrelay.trial.{queue}.{process}"

    def is_foreign_exchange(self, queue: str) -> bool:
        """Whether the dead-letter exchange belongs to another system; it may be of any type."""
        return self.adopted.get(queue) is not None

    def dead_declaration(self, queue: str) -> Any:
        """Return the declaration of the dead-letter queue of a work queue."""
        arguments: dict[str, Any] = {
            "x-queue-type": self.queue_type,
            "x-message-ttl": int(self.retention / timedelta(milliseconds=1)),
        }
        if self.queue_type == "quorum":
            arguments |= NO_DELIVERY_LIMIT
        return self._queue(self.dead_queue(queue), arguments)

    def work_declaration(self, queue: str) -> Any:
        """Return the declaration of a work queue."""
        arguments: dict[str, Any] = {
            "x-queue-type": "classic" if self.max_priority else self.queue_type,
            "x-dead-letter-exchange": self.dead_exchange(queue),
            "x-dead-letter-routing-key": queue,
        }
        if self.max_priority:
            arguments["x-max-priority"] = self.max_priority
        elif self.queue_type == "quorum":
            arguments |= AT_LEAST_ONCE | NO_DELIVERY_LIMIT
        return self._queue(queue, arguments)

    def bindings(self, queue: str) -> list[Any]:
        """Return the bindings of a work queue and its dead-letter queue."""
        exchange, dead = self.dead_exchange(queue), self.dead_queue(queue)
        return [
            spec.Queue.Bind(queue=dead, exchange=exchange, routing_key=queue),
            *_delivery_bindings(queue, dead),
        ]

    def exchange_declaration(self, queue: str) -> Any:
        """Return the declaration of the dead-letter exchange of a work queue."""
        name = self.dead_exchange(queue)
        return spec.Exchange.Declare(exchange=name, type="direct", durable=True)

    def quarantine_declaration(self, queue: str, name: str) -> Any:
        """Return the declaration of a quarantine queue (see :mod:`.crash_loops`)."""
        arguments: dict[str, Any] = {
            "x-queue-type": self.queue_type,
            "x-message-ttl": 1_000,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": queue,
            # Long after RabbitMQ has moved a dead process's messages back to their queue.
            "x-expires": 24 * 3_600_000,
        }
        if self.queue_type == "quorum":
            arguments |= AT_LEAST_ONCE | NO_DELIVERY_LIMIT
        return spec.Queue.Declare(queue=name, durable=True, arguments=arguments)

    def _queue(self, name: str, arguments: dict[str, Any]) -> Any:
        if name in self.adopted:
            return spec.Queue.Declare(queue=name, passive=True)
        return spec.Queue.Declare(queue=name, durable=True, arguments=arguments)


# -- delays ------------------------------------------------------------------------------


def delay_name(bit: int) -> str:
    """Name of the delay exchange and the delay queue of a bit; bit 0 waits one unit."""
    return f"{_DELAY}.{bit:02d}"


def next_exchange(bit: int) -> str:
    """Name of the exchange after the delay queue of a bit."""
    return delay_name(bit - 1) if bit > 0 else DELIVERY


def delay_route(queue: str, delay_ms: float) -> tuple[str, str]:
    """Return the exchange and routing key that deliver a message to ``queue`` after ``delay_ms``.

    The delay is rounded up to the next unit, so that no message is early.

    Raises:
        BrokerRefused: the delay exceeds :data:`MAX_DELAY_MS`.
    """
    if delay_ms > MAX_DELAY_MS:
        days = MAX_DELAY_MS // 86_400_000
        raise BrokerRefused(
            f"expected a delay of at most {days} days on RabbitMQ, got {delay_ms / 86_400_000:.0f}"
        )
    units = max(1, math.ceil(delay_ms / DELAY_UNIT_MS))
    bits = f"{units:0{DELAY_QUEUES}b}"
    return delay_name(units.bit_length() - 1), ".".join(bits) + "." + _routing_word(queue)


def _routing_word(queue: str) -> str:
    """The name of a queue as one word of a routing key, in which dots separate words."""
    return queue.replace(".", "~")


def delay_declarations(*, queue_type: str) -> list[Any]:
    """Return the declarations of the delay exchanges and delay queues.

    Args:
        queue_type: ``quorum`` or ``classic``.
    """
    kept: dict[str, Any] = {"x-queue-type": queue_type}
    if queue_type == "quorum":
        kept |= NO_DELIVERY_LIMIT
    found: list[Any] = [
        spec.Exchange.Declare(exchange=UNCLAIMED, type="fanout", durable=True),
        spec.Queue.Declare(queue=UNCLAIMED, durable=True, arguments=kept),
        _delay_exchange(UNDELIVERED, otherwise=UNCLAIMED),
        _delay_exchange(DELIVERY, otherwise=UNDELIVERED),
    ]
    for bit in range(DELAY_QUEUES):
        name = delay_name(bit)
        arguments = {
            "x-queue-type": queue_type,
            "x-message-ttl": DELAY_UNIT_MS * 2**bit,
            "x-dead-letter-exchange": next_exchange(bit),
        }
        if queue_type == "quorum":
            arguments |= AT_LEAST_ONCE
        found += [
            _delay_exchange(name),
            spec.Queue.Declare(queue=name, durable=True, arguments=arguments),
        ]
    return found


def delay_bindings() -> list[Any]:
    """Return the bindings of the delay queues and of the queue of unclaimed messages."""
    found: list[Any] = [spec.Queue.Bind(queue=UNCLAIMED, exchange=UNCLAIMED)]
    for bit in range(DELAY_QUEUES):
        name, before = delay_name(bit), "*." * (DELAY_QUEUES - 1 - bit)
        found += [
            spec.Queue.Bind(queue=name, exchange=name, routing_key=f"{before}1.#"),
            spec.Exchange.Bind(
                destination=next_exchange(bit), source=name, routing_key=f"{before}0.#"
            ),
        ]
    return found


def _delivery_bindings(queue: str, dead_queue: str) -> list[Any]:
    """Return the bindings for due messages and for due messages that no work queue took."""
    pattern = f"#.{_routing_word(queue)}"
    return [
        spec.Queue.Bind(queue=queue, exchange=DELIVERY, routing_key=pattern),
        spec.Queue.Bind(queue=dead_queue, exchange=UNDELIVERED, routing_key=pattern),
    ]


def _delay_exchange(name: str, *, otherwise: str | None = None) -> Any:
    arguments = {"alternate-exchange": otherwise} if otherwise else None
    return spec.Exchange.Declare(exchange=name, type="topic", durable=True, arguments=arguments)
