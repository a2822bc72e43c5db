"""The queues and exchanges of one work queue, with the names of the source system.

``webhooks`` (the work) dead-letters through the exchange ``dlx.webhook`` to the
queue ``dlq.webhooks``. A queue of an older system is adopted: used as it is,
with the dead-letter exchange that it has.

Delays are queues with a time-to-live, one a bit. A delay is counted in units of 100 ms and written
in binary into the routing key. A message enters at the queue of its highest bit. Where its bit is 1
it waits in that queue for the queue's time and is then dead-lettered to the next exchange; where
the bit is 0 it passes straight on. The last exchange delivers it to its work queue. No consumer, no
plugin; and as all messages of one queue have one time-to-live, none waits behind a longer one.

A work queue may be gone when a message for it is due. The message then goes to the dead letters of
that queue, and where those are gone as well to one queue for all queues (:data:`UNCLAIMED`).
Otherwise classic queues would drop it; and quorum queues, which keep it, would after some of them
hold up everybody's messages in their delay queue.

The idea is that of NServiceBus's delay infrastructure:
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

#: Without it RabbitMQ may drop a message between two quorum queues.
AT_LEAST_ONCE = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}

#: RabbitMQ 4 dead-letters, or drops, a message that was put back 20 times, unless the queue says
#: otherwise: a dead letter is put back after each look at it, a job when its worker stops or its
#: queue is paused. -1, RabbitMQ's own word for "never", would drop at once in 3.10.
PUT_BACK_OFTEN = {"x-delivery-limit": 2**31 - 1}

#: 25 bits of 100 ms are 38 days.
UNIT_MS = 100
DELAY_QUEUES = 25
LONGEST_MS = (2**DELAY_QUEUES - 1) * UNIT_MS

_DELAY = "formrelay.delay"
DELIVERY = f"{_DELAY}.delivery"
#: Where DELIVERY sends what no work queue takes, and the queue for what nobody takes at all.
UNDELIVERED = f"{_DELAY}.undelivered"
UNCLAIMED = f"{_DELAY}.unclaimed"


@dataclass(frozen=True, slots=True)
class Topology:
    """How queues are declared.

    Attributes:
        queue_type: ``quorum`` (replicated) or ``classic``.
        workers: worker name by queue, for the names of the dead-letter
            exchanges; a queue that is not named is its own worker.
        retention: how long dead letters are kept.
        max_priority: makes the work queues classic ones with so many priorities.
        adopted: queues that are used as they are; each with the dead-letter
            exchange that it has, None where that is ``dlx.<worker>`` too.
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
        return f"formrelay.trial.{queue}.{process}"

    def is_foreign_exchange(self, queue: str) -> bool:
        """Whether the dead-letter exchange is another system's, of whatever type."""
        return self.adopted.get(queue) is not None

    def dead(self, queue: str) -> Any:
        """The declaration of the queue of a work queue's dead letters."""
        arguments: dict[str, Any] = {
            "x-queue-type": self.queue_type,
            "x-message-ttl": int(self.retention / timedelta(milliseconds=1)),
        }
        if self.queue_type == "quorum":
            arguments |= PUT_BACK_OFTEN
        return self._queue(self.dead_queue(queue), arguments)

    def work(self, queue: str) -> Any:
        """The declaration of a work queue."""
        arguments: dict[str, Any] = {
            "x-queue-type": "classic" if self.max_priority else self.queue_type,
            "x-dead-letter-exchange": self.dead_exchange(queue),
            "x-dead-letter-routing-key": queue,
        }
        if self.max_priority:
            arguments["x-max-priority"] = self.max_priority
        elif self.queue_type == "quorum":
            arguments |= AT_LEAST_ONCE | PUT_BACK_OFTEN
        return self._queue(queue, arguments)

    def bindings(self, queue: str) -> list[Any]:
        """What leads to these queues; they and the dead-letter exchange must be there."""
        exchange, dead = self.dead_exchange(queue), self.dead_queue(queue)
        return [
            spec.Queue.Bind(queue=dead, exchange=exchange, routing_key=queue),
            *_delivery_bindings(queue, dead),
        ]

    def exchange(self, queue: str) -> Any:
        """The declaration of a work queue's dead-letter exchange."""
        name = self.dead_exchange(queue)
        return spec.Exchange.Declare(exchange=name, type="direct", durable=True)

    def quarantine(self, queue: str, name: str) -> Any:
        """Declare the quarantine queue of one process (see :mod:`.crash_loops`)."""
        arguments: dict[str, Any] = {
            "x-queue-type": self.queue_type,
            "x-message-ttl": 1_000,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": queue,
            # Long after whatever a dead process left there has gone back to its queue.
            "x-expires": 24 * 3_600_000,
        }
        if self.queue_type == "quorum":
            arguments |= AT_LEAST_ONCE | PUT_BACK_OFTEN
        return spec.Queue.Declare(queue=name, durable=True, arguments=arguments)

    def _queue(self, name: str, arguments: dict[str, Any]) -> Any:
        if name in self.adopted:
            return spec.Queue.Declare(queue=name, passive=True)
        return spec.Queue.Declare(queue=name, durable=True, arguments=arguments)


# -- delays ------------------------------------------------------------------------------


def delay_name(bit: int) -> str:
    """The name of the exchange and the queue of one bit; bit 0 waits one unit."""
    return f"{_DELAY}.{bit:02d}"


def next_exchange(bit: int) -> str:
    """The exchange after the delay queue of one bit."""
    return delay_name(bit - 1) if bit > 0 else DELIVERY


def delay_route(queue: str, delay_ms: float) -> tuple[str, str]:
    """The exchange and routing key by which a message reaches ``queue`` after ``delay_ms``.

    Rounded up to the next unit, so that nothing runs early.

    Raises:
        BrokerRefused: the delay is longer than all delay queues together.
    """
    if delay_ms > LONGEST_MS:
        days = LONGEST_MS // 86_400_000
        raise BrokerRefused(
            f"expected a delay of at most {days} days on RabbitMQ, got {delay_ms / 86_400_000:.0f}"
        )
    units = max(1, math.ceil(delay_ms / UNIT_MS))
    bits = f"{units:0{DELAY_QUEUES}b}"
    return delay_name(units.bit_length() - 1), ".".join(bits) + "." + _routing_word(queue)


def _routing_word(queue: str) -> str:
    """A queue's name as one word of a routing key: in a topic, dots part words."""
    return queue.replace(".", "~")


def delay_declarations(*, queue_type: str) -> list[Any]:
    """The declarations of the delay exchanges and queues; free of effect where they exist.

    Args:
        queue_type: ``quorum`` or ``classic``.
    """
    kept: dict[str, Any] = {"x-queue-type": queue_type}
    if queue_type == "quorum":
        kept |= PUT_BACK_OFTEN
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
            "x-message-ttl": UNIT_MS * 2**bit,
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
    """The bindings from each delay queue to the next, and of the queue of unclaimed messages."""
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
    """The bindings that deliver a due message to its work queue, or else to its dead letters."""
    pattern = f"#.{_routing_word(queue)}"
    return [
        spec.Queue.Bind(queue=queue, exchange=DELIVERY, routing_key=pattern),
        spec.Queue.Bind(queue=dead_queue, exchange=UNDELIVERED, routing_key=pattern),
    ]


def _delay_exchange(name: str, *, otherwise: str | None = None) -> Any:
    arguments = {"alternate-exchange": otherwise} if otherwise else None
    return spec.Exchange.Declare(exchange=name, type="topic", durable=True, arguments=arguments)
