"""The queues and exchanges of one work queue, with the names of the source system.

``webhooks`` (the work) dead-letters through the exchange ``dlx.webhook`` to the
queue ``dlq.webhooks``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from . import ladder


@dataclass(frozen=True, slots=True)
class Topology:
    """How queues are declared.

    Attributes:
        queue_type: ``quorum`` (replicated, counts deliveries) or ``classic``.
        workers: worker name by queue, for the names of the dead-letter
            exchanges; a queue that is not named is its own worker.
        retention: how long dead letters are kept.
    """

    queue_type: str
    workers: dict[str, str]
    retention: timedelta

    def dead_exchange(self, queue: str) -> str:
        return f"dlx.{self.workers.get(queue, queue)}"

    def dead_queue(self, queue: str) -> str:
        return f"dlq.{queue}"

    def declare_ladder(self, channel: Any) -> None:
        ladder.declare(channel, queue_type=self.queue_type)

    def declare(self, channel: Any, queue: str) -> None:
        """Declare a work queue and its dead letters; the ladder must stand already."""
        exchange, dead = self.dead_exchange(queue), self.dead_queue(queue)
        channel.exchange_declare(exchange, exchange_type="direct", durable=True)
        retention_ms = int(self.retention / timedelta(milliseconds=1))
        channel.queue_declare(
            dead,
            durable=True,
            arguments={"x-queue-type": self.queue_type, "x-message-ttl": retention_ms},
        )
        channel.queue_bind(dead, exchange, routing_key=queue)
        arguments: dict[str, Any] = {
            "x-queue-type": self.queue_type,
            "x-dead-letter-exchange": exchange,
            "x-dead-letter-routing-key": queue,
        }
        if self.queue_type == "quorum":
            arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
        channel.queue_declare(queue, durable=True, arguments=arguments)
        ladder.bind(channel, queue)
