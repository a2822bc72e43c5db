"""Makes the report of this worker process: version, memory, queues, running jobs, open breakers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import dramatiq

from .. import __version__
from ..core.failure import worker_name
from ..core.process import process_key
from ..core.throttle import Throttle
from ..state.worker_reports import (
    MAX_PROBLEM,
    MAX_QUEUES,
    MAX_RUNNING,
    PausedSink,
    QueueSize,
    RunningJob,
    WorkerReport,
)
from .delivery import Batch, Delivery


@runtime_checkable
class HasProgress(Protocol):
    """The attributes of a consumer that tell whether it works."""

    #: Whether it is closing.
    is_closing: bool

    @property
    def stalled(self) -> float:
        """Seconds since Dramatiq last asked for a message."""

    @property
    def problem(self) -> str | None:
        """Why it cannot use the broker; None if it can."""


_STATM = Path("/proc/self/statm")


def make_report(
    workers: Iterable[dramatiq.Worker],
    running: Iterable[Delivery],
    uptime: float,
    *,
    instance: str = "",
    rates: tuple[float, float | None] = (0.0, None),
    sizes: tuple[QueueSize, ...] = (),
    problem: str = "",
    payload_keys: tuple[str, ...] = (),
) -> WorkerReport:
    """Make the report of this process, which contains neither ids nor payloads.

    Args:
        workers: the running workers; usually one.
        running: the deliveries whose actor runs.
        uptime: seconds since the first worker started.
        instance: a random text of the process.
        rates: attempts per second, and the share of failed attempts, 0 to 1; None without attempts.
        sizes: the sizes of the queues.
        problem: why the broker did not answer outside the consumers; empty if it did.
        payload_keys: the ids of the keys of PAYLOAD_KEYS.
    """
    workers = list(workers)
    queues = consumed_queues(workers)
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
    consumers = running_consumers(workers)
    return WorkerReport(
        worker_name(),
        __version__,
        tuple(queues[:MAX_QUEUES]),
        round(uptime, 1),
        resident_memory(),
        len(jobs),
        tuple(jobs[:MAX_RUNNING]),
        _paused_sinks(workers),
        round(longest_stall(consumers), 1),
        first_problem(consumers) or problem[:MAX_PROBLEM],
        rate=round(rates[0], 3),
        error_rate=None if rates[1] is None else round(rates[1], 4),
        sizes=sizes,
        process=process_key(),
        instance=instance,
        payload_keys=payload_keys,
    )


def consumed_queues(workers: Iterable[dramatiq.Worker]) -> list[str]:
    """The names of the queues that the workers consume, in order."""
    return sorted({queue for worker in workers for queue in list(worker.consumers)})


def throttles_of(workers: Iterable[dramatiq.Worker]) -> set[Throttle]:
    """The throttles of the actors whose queues the workers consume."""
    return {
        throttle
        for worker in workers
        for actor in list(worker.broker.actors.values())
        if actor.queue_name in worker.consumers
        and (throttle := actor.options.get("throttle")) is not None
    }


def _paused_sinks(workers: Iterable[dramatiq.Worker]) -> tuple[PausedSink, ...]:
    paused = [each for each in throttles_of(workers) if each.is_failing or each.open_for()]
    return tuple(
        PausedSink(each.sink, round(each.open_for().total_seconds(), 1), each.is_failing)
        for each in sorted(paused, key=lambda each: each.sink)
    )


def running_consumers(workers: Iterable[dramatiq.Worker]) -> list[HasProgress]:
    """The consumers that Dramatiq asks for messages; consumers of paused queues are left out."""
    threads = [thread for worker in workers for thread in list(worker.consumers.values())]
    found: list[Any] = [each.consumer for each in threads if each.running and not each.paused]
    return [each for each in found if isinstance(each, HasProgress) and not each.is_closing]


def first_problem(consumers: Iterable[HasProgress]) -> str:
    """Why a consumer cannot use the broker, at most :data:`MAX_PROBLEM` characters; else empty."""
    problems = (each.problem for each in consumers)
    return next((each for each in problems if each), "")[:MAX_PROBLEM]


def longest_stall(consumers: Iterable[HasProgress]) -> float:
    """The longest time in seconds since Dramatiq asked one of the consumers for a message."""
    return max([each.stalled for each in consumers], default=0.0)


def resident_memory() -> int | None:
    """Resident memory of this process in bytes; None where the system does not say (not Linux)."""
    with suppress(OSError, ValueError, IndexError):
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None
