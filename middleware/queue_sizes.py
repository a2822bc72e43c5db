"""Counts the queues of this worker process at an interval, in a thread of its own.

Reports take the last counts, so a broker that does not answer never delays a report. A call that
fails also tells of a broker that an idle consumer would miss for minutes: RabbitMQ's heartbeats
notice a silent network only after two of their intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Protocol

from ..core.broker_errors import BrokerUnavailable
from ..core.clock import Clock
from ..core.errors import BrokerError
from ..core.periodic import Periodic
from ..state.worker_reports import MAX_SIZES, QueueSize

#: Short enough that a broker without an answer is reported within 30 s: this interval, two
#: time-outs of 5 s, and the interval of reports.
INTERVAL = timedelta(seconds=10)
#: Seconds for which sizes are reported: while a count hangs, they are no longer true.
_LAST_FOR = 30.0


class Counter(Protocol):
    """The method of an inspector that counts queues."""

    def counts_of(self, queues: Sequence[str]) -> Iterable[Any]:
        """The counts of each queue."""


class QueueSizes:
    """The sizes of the queues as this process last counted them.

    Args:
        queues: returns the queues that this process consumes.

    Attributes:
        problem: why the broker did not answer the last count; empty if it did.
    """

    def __init__(self, queues: Callable[[], list[str]], clock: Clock) -> None:
        self._queues = queues
        self._clock = clock
        self._counter: Callable[[], Counter] | None = None
        self._counting = Periodic("own-queues", INTERVAL, self.count)
        self._counted: tuple[float, tuple[QueueSize, ...]] = (0.0, ())
        self.problem = ""

    @property
    def sizes(self) -> tuple[QueueSize, ...]:
        """The sizes; empty before the first count, and if the broker does not answer."""
        at, sizes = self._counted
        return sizes if self._clock.monotonic() - at < _LAST_FOR else ()

    def start(self, counter: Callable[[], Counter]) -> None:
        """Start the thread; it counts after one interval for the first time."""
        self._counter = counter
        self._counting.start()

    def stop(self) -> None:
        """End the thread after the current call."""
        self._counting.stop()

    def count(self) -> None:
        """Count the queues once."""
        if self._counter is None or not (queues := self._queues()[:MAX_SIZES]):
            return
        try:
            found = self._counter().counts_of(queues)
        except BrokerError as error:
            self._counted = (0.0, ())
            # A right that is missing is no reason to doubt that jobs run.
            self.problem = error.message if isinstance(error, BrokerUnavailable) else ""
            return
        sizes = tuple(
            QueueSize(each.queue, each.waiting, each.scheduled, each.in_flight, each.dead)
            for each in found
        )
        self._counted, self.problem = (self._clock.monotonic(), sizes), ""
