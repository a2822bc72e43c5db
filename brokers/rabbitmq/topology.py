"""The queues and exchanges of one work queue, with the names of the source system.

``webhooks`` (the work) dead-letters through the exchange ``dlx.webhook`` to the
queue ``dlq.webhooks``. A queue of an older system is adopted: used as it is,
with the dead-letter exchange that it has.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pika import spec

from ..errors import BrokerRefused
from . import ladder
from .arguments import AT_LEAST_ONCE, LOOKED_AT_OFTEN
from .differences import differences_of, fitted
from .errors import ChannelClosed
from .link import Connect, Link

logger = logging.getLogger("formrelay.brokers")

_NOT_FOUND, _PRECONDITION_FAILED = 404, 406
#: What may differ in a queue of dead letters that is there already.
_OF_ITS_MAKING = ("x-message-ttl", "x-delivery-limit")


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
            arguments |= LOOKED_AT_OFTEN
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
            arguments |= AT_LEAST_ONCE
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
            arguments |= AT_LEAST_ONCE
        return spec.Queue.Declare(queue=name, durable=True, arguments=arguments)

    def _queue(self, name: str, arguments: dict[str, Any]) -> Any:
        if name in self.adopted:
            return spec.Queue.Declare(queue=name, passive=True)
        return spec.Queue.Declare(queue=name, durable=True, arguments=arguments)


class Declared:
    """What of the topology is known to stand on the server."""

    def __init__(self, topology: Topology, connect: Connect) -> None:
        self._topology = topology
        self._connect = connect
        self._ready: set[str] = set()
        self._said: set[str] = set()
        self._has_ladder = False
        # Many threads may send first at one time; RabbitMQ makes each queue slowly.
        self._lock = threading.RLock()

    def forget(self) -> None:
        """The server may have come back without its queues."""
        self._has_ladder = False
        self._ready = set()

    def ensure(self, link: Link, queues: Iterable[str]) -> None:
        """Declare what these work queues need, unless that was done already.

        Raises:
            BrokerRefused: what is there differs from what is asked; it says in what.
            BrokerUnavailable
        """
        ready = self._ready
        missing = [queue for queue in queues if queue not in ready]
        if self._has_ladder and not missing:
            return
        with self._lock:
            if not self._has_ladder:
                self._declare(link, ladder.declarations(queue_type=self._topology.queue_type))
                link.calls(ladder.bindings())
                self._has_ladder = True
            for queue in missing:
                self._declare_queue(link, queue)
                ready.add(queue)

    def _declare_queue(self, link: Link, queue: str) -> None:
        topology = self._topology
        if topology.is_foreign_exchange(queue):
            self._declare_foreign(link, queue)
        else:
            link.call(topology.exchange(queue))
        self._declare(link, [self._dead_as_it_is(queue), topology.work(queue)])
        link.calls(topology.bindings(queue))

    def _dead_as_it_is(self, queue: str) -> Any:
        """The declaration that fits a queue of dead letters which an older deployment made.

        How long it keeps them cannot be changed, and is no reason for all work to stop.
        """
        asked = self._topology.dead(queue)
        if asked.passive:
            return asked
        found = fitted(asked, _OF_ITS_MAKING, self._connect)
        wanted, kept = (one.arguments.get("x-message-ttl") for one in (asked, found))
        if kept != wanted and queue not in self._said:
            self._said.add(queue)
            logger.warning(
                "dead letters are kept for another time than asked, since their queue was made so: "
                "see docs/brokers.md",
                extra={"queue": asked.queue, "asked_days": _days(wanted), "kept_days": _days(kept)},
            )
        return found

    def _declare_foreign(self, link: Link, queue: str) -> None:
        """Make sure of an exchange without knowing its type."""
        name = self._topology.dead_exchange(queue)
        trial = self._connect()  # a refusal closes the channel
        try:
            trial.call(spec.Exchange.Declare(exchange=name, type="direct", passive=True))
        except ChannelClosed as error:
            if error.code != _NOT_FOUND:
                raise
            link.call(self._topology.exchange(queue))
        finally:
            trial.close()

    def _declare(self, link: Link, declarations: list[Any]) -> None:
        try:
            link.calls(declarations)
        except ChannelClosed as error:
            if error.code == _NOT_FOUND:
                raise BrokerRefused(
                    f"expected the queues to be adopted at {link.where} to be there, got: "
                    f"{error.text}; create them, or take them out of the list"
                ) from None
            if error.code != _PRECONDITION_FAILED:
                raise
            raise differences_of(error, declarations, self._connect) from None


def _days(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else round(milliseconds / 86_400_000, 3)
