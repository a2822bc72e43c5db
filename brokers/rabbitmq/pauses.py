"""Which queues are paused, for the workers of all processes.

AMQP knows no such thing. Here it is a binding: for the name of each paused queue the
exchange ``formrelay.paused`` leads to a queue that keeps nothing. It outlasts restarts,
stands on the management pages, and can be asked for: RabbitMQ gives back what is
published for a queue that is not paused.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pika import spec

from . import wire
from .link import Link

NAME = "formrelay.paused"


def declarations() -> list[Any]:
    """The exchange, and the queue that keeps nothing."""
    nothing = {"x-queue-type": "classic", "x-max-length": 0}
    return [
        spec.Exchange.Declare(exchange=NAME, type="direct", durable=True),
        spec.Queue.Declare(queue=NAME, durable=True, arguments=nothing),
    ]


def pause(link: Link, queue: str) -> None:
    """Pause a queue, whether or not it is paused."""
    link.call(spec.Queue.Bind(queue=NAME, exchange=NAME, routing_key=queue))


def resume(link: Link, queue: str) -> None:
    """Resume a queue, whether or not it is paused."""
    link.call(spec.Queue.Unbind(queue=NAME, exchange=NAME, routing_key=queue))


def paused(link: Link, queues: Collection[str]) -> set[str]:
    """Those of ``queues`` that are paused. The link must be free of publishes under way."""
    head = wire.properties("paused?")
    link.publish([wire.publish(NAME, queue, head, b"", link.body_room) for queue in queues])
    link.fence()
    going = {content.method.routing_key for content in link.returned}
    link.returned.clear()
    link.confirms.clear()
    return set(queues) - going
