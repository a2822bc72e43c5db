"""Writes the snapshots of this worker process, and serves the pages if no other process does."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import socket
import time
from datetime import timedelta
from threading import Lock

import dramatiq
from dramatiq.middleware import Middleware

from ... import __version__
from ...config import WorkerHttpSettings
from ...core.errors import describe
from ...core.exit_reason import exit_reason
from ...core.periodic import Periodic
from ...core.process import current_pid
from ...middleware.worker_report import (
    consumed_queues,
    first_problem,
    longest_stall,
    resident_memory,
    running_consumers,
)
from ..locked_file import LockedFile
from .files import WorkerFiles
from .process_counts import open_breakers, process_counts, sink_breakers
from .queues import QueueReader
from .server import PortServer
from .snapshot import Counts, ProcessState, Snapshot, subtract_counts

logger = logging.getLogger("formrelay.workers")

#: Time between two snapshots, and between two tries to take over the port.
_WRITE_EVERY, _TAKE_EVERY = timedelta(seconds=5), timedelta(seconds=1)


class WorkerHttp(Middleware):
    """Writes a snapshot of this process every five seconds, and tries to serve the port.

    Args:
        settings: settings with a port.
        broker_kind: ``redis``, ``rabbitmq`` or ``embedded``.

    Raises:
        ConfigError: the folder cannot be used.
    """

    def __init__(self, settings: WorkerHttpSettings, broker_kind: str) -> None:
        self.files = WorkerFiles(settings.folder)
        self._settings = settings
        self._broker_kind = broker_kind
        self._workers: list[dramatiq.Worker] = []
        self._broker: dramatiq.Broker | None = None
        self._writing = Periodic("snapshots", _WRITE_EVERY, self._write_again)
        self._server: PortServer | None = None
        self._lock = Lock()
        # Protected by the lock:
        self._pid = 0
        self._id, self._started = "", 0.0
        self._state = ProcessState.ENDED
        self._locked: LockedFile | None = None
        self._is_failing = False
        #: The counts of workers that ended earlier in this process.
        self._before: Counts = {}

    # -- Dramatiq's signals --------------------------------------------------------------

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._workers.append(worker)
        if len(self._workers) > 1:
            return
        with self._lock:
            if self._pid != current_pid():  # a forked process has counted nothing
                self._pid, self._before = current_pid(), {}
            self._broker = broker
            self._id = f"{current_pid()}-{secrets.token_hex(6)}"
            self._started, self._state = time.time(), ProcessState.READY
            self._write()
        self._writing.start()
        self._server = PortServer(
            self._settings, self.files, QueueReader(lambda: broker), every=_TAKE_EVERY
        )
        self._server.start()

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if self._workers == [worker]:
            with self._lock:
                self._state = ProcessState.STOPPING
                self._write()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        # The consumers are closed: everything is settled and counted.
        self._workers = [each for each in self._workers if each is not worker]
        if self._workers:
            return
        self._writing.stop()
        with self._lock:
            self._state = (
                ProcessState.RECYCLED if exit_reason() == "recycled" else ProcessState.ENDED
            )
            self._write()
            self._before = process_counts(broker)
            if self._locked is not None:
                self._locked.close()
                self._locked = None
        if self._server is not None:
            self._server.stop()

    # -- snapshots -----------------------------------------------------------------------

    def _write_again(self) -> None:
        with self._lock:
            if self._state is not ProcessState.ENDED and self._state is not ProcessState.RECYCLED:
                self._write()

    def _write(self) -> None:
        """Write a snapshot. If that fails, the next call tries again, and jobs run on."""
        snapshot = self._snapshot()
        try:
            self.files.ensure_folder()
            if self._locked is None or not self._locked.exists:
                self._locked = self.files.register(snapshot)
            else:
                self._locked.write_time()
                self.files.write(snapshot)
        except OSError as error:
            if not self._is_failing:
                says = os.strerror(error.errno) if error.errno else describe(error)
                about = {"folder": str(self.files.folder), "error_message": says}
                logger.warning("cannot write the counts for metrics, retrying", extra=about)
            self._is_failing = True
        else:
            self._is_failing = False

    def _snapshot(self) -> Snapshot:
        assert self._broker is not None
        consumers = running_consumers(self._workers)
        queues = consumed_queues(self._workers)
        return Snapshot(
            id=self._id,
            pid=current_pid(),
            host=socket.gethostname(),
            version=__version__,
            python=platform.python_version(),
            broker=self._broker_kind,
            started=self._started,
            at=time.time(),
            monotonic=time.monotonic(),
            state=self._state,
            stalled=round(longest_stall(consumers), 1),
            problem=first_problem(consumers),
            memory_bytes=resident_memory(),
            queues=tuple(queues),
            paused=sink_breakers(self._workers),
            breakers_open=open_breakers(),
            counts=subtract_counts(process_counts(self._broker, queues), self._before),
        )
