"""Makes the report of this worker process: version, memory, queues, running jobs, open breakers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import dramatiq

from .. import __version__
from ..core.failure import worker_name
from ..state.worker_reports import MAX_QUEUES, MAX_RUNNING, PausedSink, RunningJob, WorkerReport
from .delivery import Batch, Delivery

_STATM = Path("/proc/self/statm")


def make_report(
    workers: Iterable[dramatiq.Worker], running: Iterable[Delivery], uptime: float
) -> WorkerReport:
    """Make the report of this process, which contains neither ids nor payloads.

    Args:
        workers: the running workers; usually one.
        running: the deliveries whose actor runs.
        uptime: seconds since the first worker started.
    """
    workers = list(workers)
    queues = sorted({queue for worker in workers for queue in list(worker.consumers)})
    now = time.monotonic()
    jobs = [
        RunningJob(
            delivery.actor_name,
            round(now - delivery.started, 1),
            len(delivery.parts) if isinstance(delivery, Batch) else 1,
        )
        for delivery in running
        if delivery.started is not None
    ]
    jobs.sort(key=lambda job: -job.seconds)
    return WorkerReport(
        worker_name(),
        __version__,
        tuple(queues[:MAX_QUEUES]),
        round(uptime, 1),
        resident_memory(),
        len(jobs),
        tuple(jobs[:MAX_RUNNING]),
        _paused_sinks(workers),
    )


def _paused_sinks(workers: Iterable[dramatiq.Worker]) -> tuple[PausedSink, ...]:
    throttles = {
        throttle
        for worker in workers
        for actor in list(worker.broker.actors.values())
        if actor.queue_name in worker.consumers
        and (throttle := actor.options.get("throttle")) is not None
    }
    paused = [each for each in throttles if each.is_failing or each.open_for()]
    return tuple(
        PausedSink(each.sink, round(each.open_for().total_seconds(), 1), each.is_failing)
        for each in sorted(paused, key=lambda each: each.sink)
    )


def resident_memory() -> int | None:
    """Resident memory of this process in bytes; None where the system does not say (not Linux)."""
    with suppress(OSError, ValueError, IndexError):
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None
