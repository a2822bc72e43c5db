"""Reads the sizes of the queues from the broker, in a thread of its own, while somebody asks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from typing import Any

from ...brokers import Inspector, NotAvailable, QueueCounts
from ...core.broker_errors import BrokerRefused
from ...core.errors import BrokerError, describe
from ...core.periodic import Periodic

logger = logging.getLogger("formrelay.workers")

#: Time between two readings.
_READ_EVERY = timedelta(seconds=10)
#: Seconds without a request after which the broker is not asked any more.
_ASKED = 300.0
#: Age in seconds from which sizes are too old to be shown, and the broker counts as down.
MAX_AGE = 35.0
#: Time within which a scheduled job counts as work that workers have to be there for.
SOON = timedelta(minutes=1)
#: Maximum number of queues.
_MAX_QUEUES = 200


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """What the broker said about the queues.

    Attributes:
        is_up: whether the broker answered the last reading; None before the first.
        counts: of each declared queue; empty if they are not known.
        due: number of scheduled jobs of each queue that are due, and that are due within
            :data:`SOON`, the due jobs included; None if this broker does not tell.
        scheduled_in_all: scheduled jobs of all queues together, if the broker cannot count them by
            queue.
        problem: why the broker could not be read; empty if it could.
    """

    is_up: bool | None = None
    counts: tuple[QueueCounts, ...] = ()
    due: dict[str, tuple[int, int]] | None = None
    scheduled_in_all: int | None = None
    problem: str = ""


class QueueReader:
    """Keeps the last sizes of the queues. No method waits for the broker.

    Args:
        broker: returns the broker; called in the thread.
    """

    def __init__(self, broker: Callable[[], Any]) -> None:
        self._broker = broker
        self._reading = Periodic("queue-sizes", _READ_EVERY, self._read_if_asked, at_once=True)
        self._lock = Lock()
        self._asked_at = time.monotonic()
        self._figures, self._read_at = QueueFigures(), -MAX_AGE
        self._started_at = time.monotonic()
        self._problem: str | None = None

    def start(self) -> None:
        """Start the thread."""
        self._asked_at = self._started_at = time.monotonic()
        self._reading.start()

    def stop(self) -> None:
        """Stop the thread, after the current reading."""
        self._reading.stop()

    def figures(self) -> QueueFigures:
        """Return the sizes of the last reading, as long as they are not too old."""
        self._asked_at = now = time.monotonic()
        with self._lock:
            if now - self._read_at <= MAX_AGE:
                return self._figures
            if self._problem is None and now - self._started_at <= MAX_AGE:
                return QueueFigures()  # the first reading is under way
            return QueueFigures(False, problem=self._problem or "the broker does not answer")

    def read(self) -> QueueFigures:
        """Read the sizes now, and return them."""
        try:
            found = self._read()
        except BrokerError as error:
            with self._lock:
                if self._problem is None:
                    about = {"error_message": describe(error)}
                    logger.warning("cannot read the sizes of queues for metrics", extra=about)
                self._problem = describe(error)
        else:
            with self._lock:
                self._figures, self._read_at, self._problem = found, time.monotonic(), None
        return self.figures()

    def _read_if_asked(self) -> None:
        now = time.monotonic()
        if now - self._asked_at <= _ASKED:
            self.read()
        else:
            self._started_at = now

    def _read(self) -> QueueFigures:
        broker = self._broker()
        inspector = broker.inspector
        queues = sorted(broker.queues)[:_MAX_QUEUES]
        counts = _counts(inspector, queues)
        try:
            due = inspector.due_counts([each.queue for each in counts], within=SOON)
        except NotAvailable:
            due = None
        return QueueFigures(True, tuple(counts), due, inspector.scheduled_in_all())


def _counts(inspector: Inspector, queues: Sequence[str]) -> list[QueueCounts]:
    """Count the messages of the queues that this user of the broker may read.

    A worker's user may have the rights for its own queues alone.

    Raises:
        BrokerUnavailable: the broker does not answer.
        BrokerRefused: it may read none of them.
    """
    try:
        return inspector.counts_of(queues)
    except BrokerRefused as error:
        refusal = error
    found: list[QueueCounts] = []
    for queue in queues:
        with suppress(BrokerRefused):
            found += inspector.counts_of([queue])
    if not found:
        raise refusal
    return found
