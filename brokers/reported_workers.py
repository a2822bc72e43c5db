"""Joins the workers that a broker lists with what the worker processes report."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..core.errors import BrokerError, describe
from ..state.worker_reports import WorkerReport
from .contract import BrokerContract
from .entries import WorkerInfo
from .queue_names import is_queue_name

logger = logging.getLogger("formrelay.brokers")


def read_reports(broker: BrokerContract) -> list[WorkerReport] | None:
    """Read the reports of worker processes; None if they cannot be read.

    Without a shared store, a process knows its own report only.
    """
    if broker.state is None:
        return None
    try:
        return broker.worker_reports().read()
    except BrokerError as error:
        logger.warning("cannot read worker reports", extra={"error_message": describe(error)})
        return None


def reported_queues(reports: Iterable[WorkerReport]) -> set[str]:
    """Names of the queues that workers report, without texts that are no names of queues."""
    queues = {queue for report in reports for queue in report.queues}
    return {queue for queue in queues if is_queue_name(queue)}


def from_reports(reports: Iterable[WorkerReport], now: float) -> list[WorkerInfo]:
    """Return workers that only their reports tell of.

    Args:
        now: Unix seconds, by this machine's clock.
    """
    return [
        WorkerInfo(each.id, now - each.age, each.queues, each.name, report=each) for each in reports
    ]


def with_reports(
    workers: Sequence[WorkerInfo], reports: Iterable[WorkerReport] | None, now: float
) -> list[WorkerInfo]:
    """Add the reports to listed workers, by name, and the workers that only report.

    The broker forgets a worker that was killed, and RabbitMQ does not list a worker that has lost
    its connection.

    Args:
        now: Unix seconds, by this machine's clock.
    """
    # A name may be that of an earlier process too; the newest report counts.
    by_age = sorted(reports or (), key=lambda report: -report.age)
    by_name = {each.name: each for each in by_age}
    listed = [
        replace(worker, report=by_name[worker.name]) if worker.name in by_name else worker
        for worker in workers
    ]
    taken = {worker.report.id for worker in listed if worker.report is not None}
    others = [each for each in by_age if each.id not in taken]
    others.sort(key=lambda report: (report.is_silent, report.id))
    return [*listed, *from_reports(others, now)]
