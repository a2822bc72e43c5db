"""Queue counts and worker processes as JSON, for commands, the dashboard and the health view."""

from __future__ import annotations

from typing import Any

from ...brokers import NotAvailable, QueueCounts, RelayBroker, WorkerInfo
from ...state.worker_reports import SILENT_AFTER, QueueSize, WorkerReport
from ..metrics.snapshot import Snapshot
from .local_workers import local_workers
from .worker_states import WorkerState, judge


def queue_to_json(counts: QueueCounts) -> dict[str, Any]:
    """Return the counts of a queue. None means not available on this broker."""
    oldest = counts.oldest_age
    return {
        "queue": counts.queue,
        "waiting": counts.waiting,
        "scheduled": counts.scheduled,
        "in_flight": counts.in_flight,
        "dead": counts.dead,
        "paused": counts.paused,
        "oldest_age_s": None if oldest is None else oldest.total_seconds(),
        "dead_is_lower_bound": counts.dead_is_lower_bound,
        "dead_age_s": None if counts.dead_age is None else counts.dead_age.total_seconds(),
    }


def worker_to_json(
    broker: RelayBroker, worker: WorkerInfo, here: Snapshot | None = None
) -> dict[str, Any]:
    """Return a worker process. None means not available on this broker.

    Args:
        here: the snapshot of the process, if it runs on this machine and is alive.
    """
    now, timeout = broker.clock.time(), broker.options.heartbeat_timeout
    if worker.last_heartbeat is None:  # the broker lists only workers that are connected
        alive, silent = True, None
    else:
        silent = max(0.0, now - worker.last_heartbeat)
        is_listed = worker.report is None or worker.id != worker.report.id
        alive = silent <= (timeout if is_listed else SILENT_AFTER).total_seconds()
    judged = judge(worker, now, timeout.total_seconds(), here)
    return {
        "id": worker.id,
        "name": worker.name,
        **judged.to_json(),
        "silent_for_s": None if silent is None else round(silent, 3),
        "alive": alive and judged.state is not WorkerState.DIED,
        "queues": worker.queues,
        **_reported(worker.report),
    }


def _reported(report: WorkerReport | None) -> dict[str, Any]:
    """Return the report of a worker; None for each value of a worker that does not report."""
    if report is None:
        return dict.fromkeys(_REPORTED)
    return {
        "version": report.version,
        "up_s": round(report.uptime + report.age, 1),
        "memory_bytes": report.memory_bytes,
        "running_count": report.running_count,
        "running": [
            {"actor": job.actor, "for_s": round(job.seconds + report.age, 1), "jobs": job.jobs}
            for job in report.running
        ],
        "hangs": report.hangs,
        "problem": report.problem or None,
        "jobs_per_s": report.rate,
        "error_rate": report.error_rate,
        "sizes": [_size_to_json(each) for each in report.sizes],
    }


_REPORTED = tuple(_reported(WorkerReport("", "")))


def _size_to_json(size: QueueSize) -> dict[str, Any]:
    """Return the size of a queue, with the names of :func:`queue_to_json`."""
    return {
        "queue": size.queue,
        "waiting": size.waiting,
        "scheduled": size.scheduled,
        "in_flight": size.in_flight,
        "dead": size.dead,
    }


def workers_to_json(broker: RelayBroker) -> list[dict[str, Any]]:
    """Return the worker processes that the broker, a report or a snapshot of this machine names.

    Raises:
        NotAvailable: no worker of this machine is known, and the broker does not list them.
    """
    here = local_workers()
    try:
        workers = broker.inspector.workers()
    except NotAvailable:
        if not here:
            raise
        workers = []
    known = {worker.name for worker in workers}
    workers += [
        _from_snapshot(broker.clock.time(), each)
        for each in here.values()
        if each.name not in known
    ]
    return [worker_to_json(broker, each, here.get(each.name or "")) for each in workers]


def _from_snapshot(now: float, here: Snapshot) -> WorkerInfo:
    """Return a worker that is known from its snapshot alone."""
    uptime = max(0.0, here.at - here.started)
    about = WorkerReport(
        here.name,
        here.version,
        here.queues,
        uptime,
        here.memory_bytes,
        stalled=here.stalled,
        problem=here.problem,
        age=here.age,
    )
    return WorkerInfo(here.name, now - here.age, here.queues, here.name, about)


def list_workers(broker: RelayBroker) -> list[dict[str, Any]] | None:
    """Return the worker processes; None if they are not known."""
    try:
        return workers_to_json(broker)
    except NotAvailable:
        return None
