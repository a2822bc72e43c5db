"""Runs a monitor in each worker process with ``WORKER_MONITORING_ENABLED``; one of them leads."""

from __future__ import annotations

import logging

import dramatiq
from dramatiq.middleware import Middleware

from ...brokers import RelayBroker
from ...config import Settings
from ...core.errors import ConfigError
from ...core.process import current_pid
from .monitor import Monitor

logger = logging.getLogger("formrelay.alerts")


class MonitorInWorker(Middleware):
    """Starts the monitor of this process with its first worker, and stops it with the last."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workers: list[dramatiq.Worker] = []
        self._monitor: Monitor | None = None
        self._pid = 0

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if self._pid != current_pid():  # a thread does not survive a fork
            self._pid, self._workers, self._monitor = current_pid(), [], None
        self._workers.append(worker)
        if self._monitor is not None or not self._settings.monitoring.enabled:
            return
        assert isinstance(broker, RelayBroker)
        if broker.state is None:
            says = "without a shared store, one process of each machine sends alerts, without error"
            says += " rates and workers"
            todo = "set STATE_URL to a Redis URL, or run one formrelay monitor instead"
            logger.warning("%s: %s", says, todo)
        try:
            self._monitor = Monitor(broker, self._settings)
        except ConfigError as error:  # jobs run without alerts
            logger.error("cannot send alerts", extra={"error_message": str(error)})
            return
        self._monitor.start()

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if self._monitor is not None and self._workers == [worker]:
            self._monitor.request_stop()  # another may lead while the running jobs end

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._workers = [each for each in self._workers if each is not worker]
        if not self._workers and self._monitor is not None:
            self._monitor.stop()
            self._monitor = None
