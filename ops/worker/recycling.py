"""Recycles a worker process after many jobs, or when it needs much memory.

The process takes no more jobs, finishes and settles its running jobs, and then replaces its program
by a new one (:mod:`.restart`). Decision: docs/adr/0023.
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Collection
from datetime import timedelta
from threading import Event, Lock
from time import monotonic
from typing import Any

import dramatiq
from dramatiq.middleware import Middleware

from ...brokers import RelayBroker
from ...brokers.draining import is_idle, return_unstarted
from ...config import RecyclingSettings, get_settings
from ...core.errors import BrokerError, describe
from ...core.exit_reason import set_exit_reason
from ...core.periodic import Periodic
from ...middleware.delivery import Batch
from ...middleware.worker_report import resident_memory
from .restart import find_restart, recycle_count
from .signals import stop_signals
from .systemd import notify
from .turns import end_turn, held_turn, take_turn

logger = logging.getLogger("formrelay.workers")

_CHECK_EVERY = timedelta(seconds=1)
#: Seconds between two looks at the running jobs, and at an unavailable broker.
_LOOK_EVERY, _TRY_EVERY = 0.05, 2.0
#: Each process draws its limits between this share of the setting and the setting, so that
#: processes with equal load are not due at the same time.
_LOWEST_SHARE = 0.9
#: Seconds after its start from which the memory of a process counts. A limit that is too low must
#: not make it start without end.
_MIN_AGE = 60.0
#: Seconds for which a process that is due waits for the turn of another one, whose job may be long.
_MAX_WAIT = 60.0
_MEGABYTE = 1024 * 1024


class Recycling(Middleware):
    """Counts jobs, looks at the memory, and ends the worker process if a limit is reached.

    Args:
        min_age: seconds after the start from which the memory counts.

    Attributes:
        is_wanted: whether a limit is set.
    """

    def __init__(self, settings: RecyclingSettings, *, min_age: float = _MIN_AGE) -> None:
        self._max_jobs, self._max_memory = settings.max_jobs, settings.max_memory_mb
        self._min_age = min_age
        self.is_wanted = bool(self._max_jobs or self._max_memory)
        self._restart = find_restart() if self.is_wanted else None
        self._checks = Periodic("recycling", _CHECK_EVERY, self._check)
        self._worker: dramatiq.Worker | None = None
        self._stopped = Event()
        self._due_at: float | None = None
        self._job_limit = self._memory_limit = 0
        self._booted = 0.0
        self._lock = Lock()
        # Protected by the lock:
        self._jobs = 0

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if self._restart is None or stop_signals() is None:
            logger.warning(
                "WORKER_MAX_JOBS and WORKER_MAX_MEMORY_MB are ignored: this process was not "
                "started by the dramatiq command line"
            )
            return
        self._restart.prepare(held_turn)
        share = random.uniform(_LOWEST_SHARE, 1)  # noqa: S311 - no secret
        self._job_limit = max(1, round((self._max_jobs or 0) * share))
        self._memory_limit = int((self._max_memory or 0) * share * _MEGABYTE)
        self._worker, self._booted = worker, monotonic()

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        end_turn()
        if self._worker is None:
            return
        self._checks.start()
        memory = resident_memory()
        if not self._max_memory:
            return
        if memory is None:
            logger.warning("WORKER_MAX_MEMORY_MB is ignored: the memory is known on Linux only")
        elif memory > self._memory_limit:
            about = {"memory_mb": memory // _MEGABYTE, "limit_mb": self._max_memory}
            logger.warning(
                "WORKER_MAX_MEMORY_MB is too low: a worker that has run no job needs more memory, "
                "and is recycled every minute",
                extra=about,
            )

    def after_process_message(
        self, broker: dramatiq.Broker, message: Any, *, result: Any = None, exception: Any = None
    ) -> None:
        if self._max_jobs:
            with self._lock:
                self._jobs += len(message.parts) if isinstance(message, Batch) else 1

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._stopped.set()
        self._checks.stop()

    # -- in the thread -------------------------------------------------------------------

    def _check(self) -> None:
        about = self._reached_limit()
        if about is None or self._stopped.is_set():
            return
        now = monotonic()
        if self._due_at is None:
            self._due_at = now
        if take_turn() or now - self._due_at > _MAX_WAIT:
            self._recycle(about)

    def _reached_limit(self) -> dict[str, int] | None:
        """Return the fields of the log line if a limit is reached; None otherwise."""
        memory = resident_memory() or 0
        is_due = bool(self._max_jobs) and self._jobs >= self._job_limit
        if self._max_memory and monotonic() - self._booted >= self._min_age:
            is_due |= memory > self._memory_limit
        return {"jobs": self._jobs, "memory_mb": memory // _MEGABYTE} if is_due else None

    def _recycle(self, about: dict[str, int]) -> None:
        """Finish the running messages without new ones, and end the worker."""
        worker, signals = self._worker, stop_signals()
        assert worker is not None
        assert signals is not None
        broker: Any = worker.broker
        logger.info("recycling this process: finishing its jobs", extra=about)
        broker.is_draining = True
        return_unstarted(worker)
        while not is_idle(worker):
            if self._stopped.wait(_LOOK_EVERY):  # by a signal: an ordinary stop
                return
            return_unstarted(worker)
        if not signals.were_received:
            set_exit_reason("recycled")
            signals.end_worker()
            if signals.were_received:  # meanwhile
                set_exit_reason("stopped")


def ping(broker: RelayBroker, queues: Collection[str] | None) -> None:
    """Check the broker; a recycled process waits for it.

    If the process ended, Dramatiq would stop its siblings, which wait for the broker too.

    Raises:
        BrokerUnavailable, BrokerRefused: this process is not recycled.
    """
    is_logged = False
    while True:
        try:
            return broker.ping(queues)
        except BrokerError as error:
            if not recycle_count():
                raise
            if not is_logged:
                about = {"error_message": describe(error)}
                logger.error("a recycled process waits for the broker", extra=about)
                is_logged = True
        notify(get_settings().systemd.notify_socket, "WATCHDOG=1")
        signals = stop_signals()
        for _ in range(int(_TRY_EVERY / _LOOK_EVERY)):
            if signals is not None and signals.were_received:
                sys.exit(0)
            Event().wait(_LOOK_EVERY)
