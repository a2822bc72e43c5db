"""Delays inside RabbitMQ: a ladder of queues with time-to-live, one rung a bit.

A delay is counted in units of 100 ms and written in binary into the routing
key. A message enters at the rung of its highest bit. Where its bit of a rung
is 1 it waits in that rung's queue for the rung's time and is then dead-lettered
to the next one; where the bit is 0 it passes straight on. After the last rung
an exchange delivers it to its work queue. No consumer, no plugin; and as all
messages of one queue have one time-to-live, none waits behind a longer one.

A work queue may be gone when a message for it is due. The message then goes to the
dead letters of that queue, and where those are gone as well to a queue for all such
(:data:`UNCLAIMED`). Otherwise classic queues would drop it; and quorum queues, which
keep it, would after some of them hold up everybody's messages on their rung.

The idea is that of NServiceBus's delay infrastructure:
https://docs.particular.net/transports/rabbitmq/delayed-delivery
"""

from __future__ import annotations

import math
from typing import Any

from pika import spec

from ..errors import BrokerRefused
from .arguments import AT_LEAST_ONCE, PUT_BACK_OFTEN

#: 25 bits of 100 ms are 38 days.
UNIT_MS = 100
RUNGS = 25
LONGEST_MS = (2**RUNGS - 1) * UNIT_MS

_LADDER = "formrelay.delay"
DELIVERY = f"{_LADDER}.delivery"
#: Where DELIVERY sends what no work queue takes, and the queue for what nobody takes at all.
UNDELIVERED = f"{_LADDER}.undelivered"
UNCLAIMED = f"{_LADDER}.unclaimed"


def rung_name(rung: int) -> str:
    """The name of a rung's exchange and of its queue; rung 0 waits one unit."""
    return f"{_LADDER}.{rung:02d}"


def next_exchange(rung: int) -> str:
    """Where a message goes from a rung."""
    return rung_name(rung - 1) if rung > 0 else DELIVERY


def route(queue: str, delay_ms: float) -> tuple[str, str]:
    """The exchange and routing key by which a message reaches ``queue`` after ``delay_ms``.

    Rounded up to the next unit, so that nothing runs early.

    Raises:
        BrokerRefused: the delay is longer than the ladder.
    """
    if delay_ms > LONGEST_MS:
        days = LONGEST_MS // 86_400_000
        raise BrokerRefused(
            f"expected a delay of at most {days} days on RabbitMQ, got {delay_ms / 86_400_000:.0f}"
        )
    units = max(1, math.ceil(delay_ms / UNIT_MS))
    bits = f"{units:0{RUNGS}b}"
    return rung_name(units.bit_length() - 1), ".".join(bits) + "." + address(queue)


def address(queue: str) -> str:
    """A queue's name as one word of a routing key: in a topic, dots part words."""
    return queue.replace(".", "~")


def declarations(*, queue_type: str) -> list[Any]:
    """The declarations of the ladder's exchanges and queues; free of effect where they stand.

    Args:
        queue_type: ``quorum`` or ``classic``.
    """
    kept: dict[str, Any] = {"x-queue-type": queue_type}
    if queue_type == "quorum":
        kept |= PUT_BACK_OFTEN
    found: list[Any] = [
        spec.Exchange.Declare(exchange=UNCLAIMED, type="fanout", durable=True),
        spec.Queue.Declare(queue=UNCLAIMED, durable=True, arguments=kept),
        _exchange(UNDELIVERED, otherwise=UNCLAIMED),
        _exchange(DELIVERY, otherwise=UNDELIVERED),
    ]
    for rung in range(RUNGS):
        name = rung_name(rung)
        arguments = {
            "x-queue-type": queue_type,
            "x-message-ttl": UNIT_MS * 2**rung,
            "x-dead-letter-exchange": next_exchange(rung),
        }
        if queue_type == "quorum":
            arguments |= AT_LEAST_ONCE
        found += [
            _exchange(name),
            spec.Queue.Declare(queue=name, durable=True, arguments=arguments),
        ]
    return found


def bindings() -> list[Any]:
    """What leads from rung to rung, and what nobody takes to its queue."""
    found: list[Any] = [spec.Queue.Bind(queue=UNCLAIMED, exchange=UNCLAIMED)]
    for rung in range(RUNGS):
        name, before = rung_name(rung), "*." * (RUNGS - 1 - rung)
        found += [
            spec.Queue.Bind(queue=name, exchange=name, routing_key=f"{before}1.#"),
            spec.Exchange.Bind(
                destination=next_exchange(rung), source=name, routing_key=f"{before}0.#"
            ),
        ]
    return found


def bindings_of(queue: str, dead_queue: str) -> list[Any]:
    """What lets the ladder deliver to a work queue, or else to its dead letters."""
    pattern = f"#.{address(queue)}"
    return [
        spec.Queue.Bind(queue=queue, exchange=DELIVERY, routing_key=pattern),
        spec.Queue.Bind(queue=dead_queue, exchange=UNDELIVERED, routing_key=pattern),
    ]


def _exchange(name: str, *, otherwise: str | None = None) -> Any:
    arguments = {"alternate-exchange": otherwise} if otherwise else None
    return spec.Exchange.Declare(exchange=name, type="topic", durable=True, arguments=arguments)
