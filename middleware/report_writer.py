"""Writes the report of this worker process to the shared store, in a thread of its own.

A report must not be late because something else is: a history that cannot be written, or a broker
that does not answer, would make a worker that works seem silent.

A process that was killed cannot report its end. The other workers of its machine see that it is
silent and that its process has ended, and note it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from threading import Lock
from typing import Any
from uuid import uuid4

import dramatiq

from ..core.clock import Clock
from ..core.errors import BrokerError, describe
from ..core.periodic import Periodic
from ..core.process import Fate, fate_of
from ..state.history import Tally
from ..state.worker_reports import WorkerReport, WorkerReports
from .delivery import Delivery
from .queue_sizes import QueueSizes
from .recent_rate import RecentRate
from .worker_report import consumed_queues, make_report

logger = logging.getLogger("formrelay.workers")

INTERVAL = timedelta(seconds=5)
#: Minimum seconds between two log lines of an outage.
_LOG_EVERY = 60.0


class ReportWriter:
    """Reports this process from :meth:`start` to :meth:`stop`, at once and every five seconds.

    Args:
        workers: returns the running workers.
        running: the deliveries whose actor runs.
    """

    def __init__(
        self,
        workers: Callable[[], list[dramatiq.Worker]],
        running: Mapping[int, Delivery],
        clock: Clock,
    ) -> None:
        self._workers = workers
        self._running = running
        self._clock = clock
        self._writing = Periodic("report", INTERVAL, self.write, at_once=True)
        self._sizes = QueueSizes(lambda: consumed_queues(workers()), clock)
        self._lock = Lock()
        # Protected by the lock:
        self._reports: Callable[[], WorkerReports] | None = None
        self._key_ids: Callable[[], tuple[str, ...]] = tuple
        self._instance = ""
        self._began = 0.0
        self._recent = RecentRate(0.0)
        self._logged_at = -_LOG_EVERY

    def begin(self) -> None:
        """Note that the first worker of this process starts."""
        with self._lock:
            self._instance = uuid4().hex[:12]
            self._began = self._clock.monotonic()
            self._recent = RecentRate(self._began)

    def start(self, broker: Any) -> None:
        """Start the threads; ``broker`` has the reports, the inspector and the options."""
        self._key_ids = broker.options.payload_key_ids
        self._reports = broker.worker_reports
        self._writing.start()
        self._sizes.start(lambda: broker.inspector)

    def stop(self) -> None:
        """End the threads and remove the report: the last worker of this process has stopped."""
        self._sizes.stop()
        self._writing.stop()
        with self._lock:  # after the current call
            if self._reports is not None:
                self._try(lambda reports: reports.remove(self._made().id))
            self._reports = None

    def count(self, tallies: Iterable[Tally]) -> None:
        """Add the counts since the last call to the rate."""
        with self._lock:
            self._recent.add(self._clock.monotonic(), tallies)

    def write(self) -> None:
        """Write the report now, unless the threads have been stopped."""
        with self._lock:
            if self._reports is not None and self._workers():
                self._try(self._write)

    def _write(self, reports: WorkerReports) -> None:
        for other in reports.report(self._made()):
            if fate_of(other.process) is Fate.ENDED:
                reports.mark_ended(other)

    def _made(self) -> WorkerReport:
        now = self._clock.monotonic()
        return make_report(
            self._workers(),
            list(self._running.values()),
            now - self._began,
            instance=self._instance,
            rates=self._recent.figures(now),
            sizes=self._sizes.sizes,
            problem=self._sizes.problem,
            payload_keys=self._key_ids(),
        )

    def _try(self, do: Callable[[WorkerReports], None]) -> None:
        assert self._reports is not None
        try:
            do(self._reports())
        except BrokerError as error:
            if (now := self._clock.monotonic()) - self._logged_at >= _LOG_EVERY:
                self._logged_at = now
                about = {"error_message": describe(error)}
                logger.warning("cannot write the worker report, retrying", extra=about)
        else:
            self._logged_at = -_LOG_EVERY
