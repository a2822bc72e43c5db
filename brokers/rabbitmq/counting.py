"""Counts the messages of queues, all queues in a few round trips."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from ..entries import QueueCounts
from ..errors import BrokerRefused, BrokerUnavailable
from .client import RabbitClient
from .management import Management, QueueFigures
from .pauses import read_pauses
from .queue_status import queue_statuses
from .topology import DELAY_QUEUES, delay_name

#: Seconds for which the last number of dead letters is shown while a process reads them. A process
#: that reads for longer is replaying or deleting them, which hides few.
_KNOWN_SECONDS = 15.0
#: Maximum age of the figures of the management API.
_MANAGEMENT_AGE = timedelta(seconds=5)


class QueueCounter:
    """Counts the messages of one RabbitMQ for all inspectors of a process."""

    def __init__(self, client: RabbitClient, management: Management | None) -> None:
        self._client = client
        self._management = management
        #: The numbers of dead letters that were counted last, with monotonic seconds, by queue.
        self._known: dict[str, tuple[int, float]] = {}

    def counts_of(self, queues: Sequence[str]) -> list[QueueCounts]:
        """Count the messages of work queues.

        RabbitMQ does not count the dead letters that a process is reading at the moment. Then the
        number of the management API is returned, or the last known number with its age, or else
        the number of the others.
        """
        figures = self._figures()
        dead_queue = self._client.topology.dead_queue
        names = [*queues, *map(dead_queue, queues)]
        with self._client.connection(queues) as connection:
            statuses = queue_statuses(connection, names)
            paused = read_pauses(self._client, connection, queues)
        found = []
        for queue, work, dead in zip(queues, statuses, statuses[len(queues) :], strict=False):
            count, is_least, age = self._dead(queue, dead, figures)
            in_flight = None
            if figures is not None:
                in_flight = figures[queue].in_flight if queue in figures else 0
            found.append(
                QueueCounts(
                    queue,
                    int(work.message_count),
                    scheduled=None,  # the delay queues are shared by all queues
                    in_flight=in_flight,
                    dead=count,
                    paused=paused[queue],
                    dead_is_lower_bound=is_least,
                    dead_age=age,
                )
            )
        return found

    def _dead(
        self, queue: str, status: Any, figures: Mapping[str, QueueFigures] | None
    ) -> tuple[int, bool, timedelta | None]:
        """Return a number of dead letters, whether it is a lower bound, and its age."""
        count, now = int(status.message_count), time.monotonic()
        if not status.consumer_count:
            self._known[queue] = count, now
            return count, False, None
        name = self._client.topology.dead_queue(queue)
        if figures is not None and name in figures:
            return figures[name].messages, False, _MANAGEMENT_AGE
        known, at = self._known.get(queue, (0, -_KNOWN_SECONDS))
        if now - at < _KNOWN_SECONDS:
            return known, False, timedelta(seconds=now - at)
        return count, True, None

    def _figures(self) -> dict[str, QueueFigures] | None:
        try:
            return None if self._management is None else self._management.figures()
        except (BrokerUnavailable, BrokerRefused):
            return None  # the other counts are still correct

    def consumed(self, queues: Sequence[str]) -> set[str]:
        """Names of the queues that have consumers."""
        with self._client.connection(queues) as connection:
            statuses = queue_statuses(connection, queues)
        return {
            name for name, status in zip(queues, statuses, strict=True) if status.consumer_count
        }

    def scheduled(self) -> int:
        """Count the scheduled messages of all queues, which share the delay queues."""
        names = [delay_name(bit) for bit in range(DELAY_QUEUES)]
        with self._client.connection() as connection:
            return sum(int(each.message_count) for each in queue_statuses(connection, names))
