"""Synchronizes the limiter of this process with the endpoint registry, once a second.

It does so in its own thread, so no delivery waits for the registry. While the registry is
unavailable, the limiter uses what it knows.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from ...core.clock import SYSTEM_CLOCK, Clock
from ...core.errors import BrokerError
from ...core.periodic import Periodic
from .limiter import EndpointLimiter
from .registry import DeliveryReport, DisableRules, EndpointRecord, EndpointRegistry, Position

logger = logging.getLogger("formrelay.webhooks")

#: HTTP status 410 (Gone), which disables the endpoint.
_GONE = 410


def _nobody_listens(_record: EndpointRecord) -> None:
    """Do nothing; the default of ``announce``."""


class RegistrySync:
    """Reports deliveries to the registry, and tells the limiter which endpoints are disabled.

    Safe to share between threads. A forked process needs a :meth:`start` of its own.

    Args:
        limiter: the limiter of this process.
        records: the registry of all processes.
        rules: when an endpoint is disabled.
        announce: called with the record of each endpoint that this process has disabled.
        interval: time between two synchronizations.
    """

    def __init__(
        self,
        limiter: EndpointLimiter,
        records: EndpointRegistry,
        rules: DisableRules,
        *,
        announce: Callable[[EndpointRecord], None] = _nobody_listens,
        interval: timedelta = timedelta(seconds=1),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.limiter = limiter
        self.records = records
        self._rules = rules
        self._announce = announce
        self._clock = clock
        self._lock = threading.Lock()
        self._reports: dict[str, DeliveryReport] = {}
        self._one_sync = threading.Lock()
        # Used only with the lock ``_one_sync``:
        self._position: Position | None = None
        #: Reported endpoints that answered 410, until the disabled endpoints are read again.
        self._gone: set[str] = set()
        self._is_away = False
        self._syncing = Periodic("endpoints", interval, self.sync)

    def start(self) -> None:
        """Start the thread and synchronize now; does nothing if the thread runs already."""
        if self._syncing.start():
            self.sync()

    def stop(self) -> None:
        """Stop the thread and send the last reports; :meth:`start` starts it again."""
        if self._syncing.stop():
            self.sync()

    def note(
        self, id: str, host: str, *, status: int | None, is_success: bool, form_id: str = ""
    ) -> None:
        """Note the end of a delivery in memory, for the report of the next :meth:`sync`.

        Args:
            status: HTTP status; None without a response.
            form_id: form of the delivery; empty if it has none.
        """
        now = self._clock.time()
        if status == _GONE:
            self.limiter.disable_here(id)
        with self._lock:
            report = self._reports.get(id)
            if report is None:
                report = self._reports[id] = DeliveryReport(id, host, False, 0, now, now, status)
            if is_success:
                report.has_worked, report.failures = True, 0
            else:
                if not report.failures:
                    report.first_at = now
                report.failures += 1
            report.last_at, report.last_status = now, status
            report.form_id = form_id or report.form_id
            report.is_gone = report.is_gone or status == _GONE

    def sync(self) -> None:
        """Send the reports since the last call, and read which endpoints are disabled."""
        with self._one_sync:
            disabled = self._exchange()
        for record in disabled:
            logger.error(
                "endpoint disabled",
                extra={"endpoint": record.id, "host": record.host, "why": record.why},
            )
            self._announce(record)

    def _exchange(self) -> list[EndpointRecord]:
        """Exchange news with the registry; returns the endpoints that the reports disabled."""
        with self._lock:
            reports, self._reports = self._reports, {}
        disabled: list[EndpointRecord] = []
        try:
            disabled = self.records.report(reports.values(), self._rules)
            self._gone.update(id for id, report in reports.items() if report.is_gone)
            reports = {}  # sent: not to be put back if reading fails
            self._learn()
            self._is_away = False
        except BrokerError as error:
            if not self._is_away:
                logger.warning("endpoint registry unavailable", extra={"error": str(error)})
            self._is_away = True
        finally:
            self._put_back(reports)
        return disabled

    def _learn(self) -> None:
        """Tell the limiter which endpoints are disabled."""
        changes = self.records.changes(self._position)
        self._position = changes.position
        if not self.limiter.learn(changes, self._gone):
            # An older version of formrelay or a person changed the set of disabled endpoints
            # without an entry in the changes.
            self.limiter.learn(self.records.changes(None))
        self._gone.clear()

    def _put_back(self, reports: dict[str, DeliveryReport]) -> None:
        with self._lock:
            for id, earlier in reports.items():
                later = self._reports.get(id)
                self._reports[id] = earlier if later is None else _joined(earlier, later)


def _joined(earlier: DeliveryReport, later: DeliveryReport) -> DeliveryReport:
    """Join two reports of one endpoint into one."""
    if later.has_worked:
        return replace(later, is_gone=earlier.is_gone or later.is_gone)
    return replace(
        later,
        has_worked=earlier.has_worked,
        failures=earlier.failures + later.failures,
        first_at=earlier.first_at if earlier.failures else later.first_at,
        is_gone=earlier.is_gone or later.is_gone,
    )
