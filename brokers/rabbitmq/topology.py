"""The queues and exchanges of one work queue, with the names of the source system.

``webhooks`` (the work) dead-letters through the exchange ``dlx.webhook`` to the
queue ``dlq.webhooks``. A queue of an older system is adopted: used as it is,
with the dead-letter exchange that it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pika import spec

from . import ladder
from .arguments import AT_LEAST_ONCE, PUT_BACK_OFTEN


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

    def trial_queue(self, queue: str, process: str) -> str:
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
            *ladder.bindings_of(queue, dead),
        ]

    def exchange(self, queue: str) -> Any:
        """The declaration of a work queue's dead-letter exchange."""
        name = self.dead_exchange(queue)
        return spec.Exchange.Declare(exchange=name, type="direct", durable=True)

    def trial(self, queue: str, name: str) -> Any:
        """The declaration of a queue for the trials of one process (see :mod:`.trials`)."""
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
