"""Synchronizes the limiter of this process with the endpoint registry, once a second.

This runs in a thread of its own, so no delivery waits for the registry. While the registry is
unavailable, the limiter uses the last known set of disabled endpoints.
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


class RegistrySync:
    """Reports deliveries to the registry, and tells the limiter which endpoints are disabled.

    Safe to share between threads. A forked process must call :meth:`start` itself.

    Args:
        limiter: the limiter of this process.
        registry: the registry of all processes.
        rules: when an endpoint is disabled.
        on_disabled: called with the record of each endpoint that a report has disabled.
    """

    def __init__(
        self,
        limiter: EndpointLimiter,
        registry: EndpointRegistry,
        rules: DisableRules,
        *,
        on_disabled: Callable[[EndpointRecord], None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.limiter = limiter
        self.registry = registry
        self._rules = rules
        self._on_disabled = on_disabled
        self._clock = clock
        self._start_lock = threading.Lock()
        self._lock = threading.Lock()
        self._reports: dict[str, DeliveryReport] = {}
        #: The reports of the last call of :meth:`sync`.
        self._last_reports: dict[str, DeliveryReport] = {}
        self._sync_lock = threading.Lock()
        # Protected by ``_sync_lock``:
        self._position: Position | None = None
        #: Endpoints whose 410 is reported, until the changes are read.
        self._gone: set[str] = set()
        self._is_unavailable = False
        self._syncing = Periodic("endpoints", timedelta(seconds=1), self.sync)

    @property
    def is_started(self) -> bool:
        """Whether this process has started the thread and synchronized once."""
        return self._syncing.runs and not self._start_lock.locked()

    def start(self) -> None:
        """Start the thread and synchronize now; does nothing if :attr:`is_started`.

        Waits for the registry, so never call it in an event loop.
        """
        with self._start_lock:
            if self._syncing.start():
                self.sync()

    def stop(self) -> None:
        """Stop the thread and send the last reports; :meth:`start` starts it again."""
        if self._syncing.stop():
            self.sync()

    def add(
        self, id: str, host: str, *, status: int | None, is_success: bool, form_id: str = ""
    ) -> None:
        """Add the result of a delivery to the report that the next :meth:`sync` sends.

        Args:
            status: HTTP status; None without a response.
            form_id: form of the delivery; empty if it has none.
        """
        now = self._clock.time()
        if status == _GONE:
            self.limiter.disable_locally(id)
        with self._lock:
            report = self._reports.get(id)
            if report is None:
                report = self._reports[id] = DeliveryReport(id, host, False, 0, now, now, status)
            if is_success:
                report.has_success, report.failures = True, 0
            else:
                if not report.failures:
                    report.first_at = now
                report.failures += 1
            report.last_at, report.last_status = now, status
            report.form_id = form_id or report.form_id
            report.is_gone = report.is_gone or status == _GONE

    def sync(self) -> None:
        """Send the reports since the last call, and update the limiter's disabled endpoints."""
        with self._sync_lock:
            disabled = self._exchange()
        for record in disabled:
            logger.error(
                "endpoint disabled",
                extra={"endpoint": record.id, "host": record.host, "why": record.why},
            )
            if self._on_disabled is not None:
                self._on_disabled(record)

    def _exchange(self) -> list[EndpointRecord]:
        """Send reports and read changes; returns the endpoints that the reports disabled."""
        with self._lock:
            reports, self._reports = self._reports, {}
        self._add_opened(reports)
        disabled: list[EndpointRecord] = []
        try:
            disabled = self.registry.report(reports.values(), self._rules)
            self._gone.update(id for id, report in reports.items() if report.is_gone)
            reports = {}  # sent, so not put back if reading fails
            self._apply_changes()
            self._is_unavailable = False
        except BrokerError as error:
            if not self._is_unavailable:
                logger.warning("endpoint registry unavailable", extra={"error_message": str(error)})
            self._is_unavailable = True
        finally:
            self._put_back(reports)
        return disabled

    def _add_opened(self, reports: dict[str, DeliveryReport]) -> None:
        """Add the circuit breakers that opened to the reports."""
        # A breaker opens just after its delivery is added, so perhaps after that report was taken.
        last, self._last_reports = self._last_reports, dict(reports)
        now = self._clock.time()
        for id, seconds in self.limiter.take_opened().items():
            if id not in reports and id in last:
                reports[id] = replace(last[id], has_success=False, failures=0, is_gone=False)
            if id in reports:
                reports[id].open_until = now + seconds

    def _apply_changes(self) -> None:
        """Read the changes of the disabled endpoints, and apply them to the limiter."""
        changes = self.registry.changes(self._position)
        self._position = changes.position
        if not self.limiter.apply_changes(changes, self._gone):
            # An older version of formrelay or a person changed the set without recording a change.
            self.limiter.apply_changes(self.registry.changes(None))
        self._gone.clear()

    def _put_back(self, reports: dict[str, DeliveryReport]) -> None:
        with self._lock:
            for id, earlier in reports.items():
                later = self._reports.get(id)
                self._reports[id] = earlier if later is None else _joined(earlier, later)


def _joined(earlier: DeliveryReport, later: DeliveryReport) -> DeliveryReport:
    """Join two reports of one endpoint."""
    if later.has_success:
        return replace(later, is_gone=earlier.is_gone or later.is_gone)
    return replace(
        later,
        has_success=earlier.has_success,
        open_until=later.open_until or earlier.open_until,
        failures=earlier.failures + later.failures,
        first_at=earlier.first_at if earlier.failures else later.first_at,
        is_gone=earlier.is_gone or later.is_gone,
    )
