"""Queue counts and worker processes as JSON, for commands, the dashboard and the health view."""

from __future__ import annotations

from typing import Any

from ..brokers import NotAvailable, QueueCounts, RelayBroker, WorkerInfo
from ..state.worker_reports import SILENT_AFTER, WorkerReport


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


def worker_to_json(broker: RelayBroker, worker: WorkerInfo) -> dict[str, Any]:
    """Return a worker process. None means not available on this broker."""
    if worker.last_heartbeat is None:  # the broker lists only workers that are connected
        alive, silent = True, None
    else:
        silent = max(0.0, broker.clock.time() - worker.last_heartbeat)
        limit = broker.options.heartbeat_timeout
        if worker.report is not None and worker.id == worker.report.name:
            limit = max(limit, SILENT_AFTER)  # known from its reports alone
        alive = silent <= limit.total_seconds()
    return {
        "id": worker.id,
        "name": worker.name,
        "silent_for_s": None if silent is None else round(silent, 3),
        "alive": alive,
        "queues": worker.queues,
        **_reported(worker.report),
    }


def _reported(report: WorkerReport | None) -> dict[str, Any]:
    """Return what a worker reported of itself; None for a worker that does not report."""
    if report is None:
        names = ("version", "up_s", "memory_bytes", "running_count", "running", "hangs", "problem")
        return dict.fromkeys(names)
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
    }


def list_workers(broker: RelayBroker) -> list[dict[str, Any]] | None:
    """Return the worker processes; None if not available on this broker."""
    try:
        return [worker_to_json(broker, worker) for worker in broker.inspector.workers()]
    except NotAvailable:
        return None
