"""The overview: a queue a row, the workers, and what needs attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from werkzeug import Response

from ....brokers import NotAvailable, QueueCounts, RelayBroker
from ....brokers.inspection import WorkerInfo
from ....core.errors import BrokerError, describe
from ...health.local_workers import local_workers
from ...health.status_json import worker_to_json
from ..external_systems import ExternalSystem
from ..figures import NO_ATTEMPTS, RATE_MINUTES, QueueFigures
from ..sink_states import sink_states
from ..view import Route, View


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue on the overview.

    Attributes:
        has_worker: whether a live worker consumes it; None: not known.
        figures: rates, durations and sparklines; None: not known.
    """

    counts: QueueCounts
    has_worker: bool | None
    figures: QueueFigures | None


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker process.

    Attributes:
        state: a :class:`.WorkerState`.
        why: why it is in that state; empty if it works.
        silent_for: seconds since its last heartbeat; None if the broker has no heartbeats.
        version: version of formrelay; None if the worker does not report.
        up: seconds since its start.
        memory: resident bytes.
        running_count: number of jobs that run.
        running: the jobs that have run longest: ``actor``, ``for_s``, ``jobs``.
        rate: attempts per second in the last minute.
        error_rate: share of these attempts that failed; None without attempts.
    """

    name: str
    is_alive: bool
    state: str
    why: str
    silent_for: float | None
    queues: tuple[str, ...]
    version: str | None = None
    up: float | None = None
    memory: int | None = None
    running_count: int | None = None
    running: Sequence[dict[str, Any]] = ()
    rate: float | None = None
    error_rate: float | None = None


def show(view: View) -> Response:
    """Show all queues and workers."""
    broker = view.broker
    workers, why_no_workers = _workers(broker)
    reports = [each.report for each in workers or () if each.report is not None]
    here = local_workers() if workers else {}
    names = view.site.queue_list.names(broker)
    counts = broker.inspector.counts_of(names)
    consumed = _consumed(broker, names)
    figures, others, weaknesses = _from_store(view)
    rows = [
        QueueRow(
            each,
            None if consumed is None else each.queue in consumed,
            None if figures is None else figures.get(each.queue, NO_ATTEMPTS),
        )
        for each in counts
    ]
    return view.render(
        "overview.html",
        title="Overview",
        queues=rows,
        has_history=figures is not None,
        is_shared=broker.state is not None,
        rate_minutes=RATE_MINUTES,
        stuck=[
            row.counts.queue
            for row in rows
            if row.has_worker is False and row.counts.waiting and not row.counts.paused
        ],
        external_systems=[
            *sink_states([each for each in reports if not each.is_silent], figures, view.now),
            *others,
        ],
        routes={route.name for route in view.site.navigation},
        workers=None
        if workers is None
        else [
            _worker_row(worker_to_json(broker, each, here.get(each.name or ""))) for each in workers
        ],
        why_no_workers=why_no_workers,
        has_reports=bool(reports),
        why_incomplete=view.site.queue_list.why_incomplete(broker),
        weaknesses=weaknesses,
        scheduled_in_all=broker.inspector.scheduled_in_all(),
    )


def _from_store(
    view: View,
) -> tuple[dict[str, QueueFigures] | None, list[ExternalSystem], list[str]]:
    """The figures, the external systems and what is weak; without those that the store keeps,
    while it is unavailable."""
    site, broker = view.site, view.broker
    weaknesses = broker.weaknesses()
    try:
        return site.figures.of(broker), site.external_systems.get(broker), weaknesses
    except BrokerError as error:
        return None, [], [*weaknesses, f"The shared store is unavailable: {describe(error)}"]


def _workers(broker: RelayBroker) -> tuple[list[WorkerInfo] | None, str]:
    """Return the worker processes; None and why not if the broker does not list them."""
    try:
        return broker.inspector.workers(), ""
    except NotAvailable as error:
        return None, str(error)


def _worker_row(found: dict[str, Any]) -> WorkerRow:
    return WorkerRow(
        found["name"] or found["id"],
        found["alive"],
        found["state"],
        found["why"] or "",
        found["silent_for_s"],
        found["queues"],
        found["version"],
        found["up_s"],
        found["memory_bytes"],
        found["running_count"],
        found["running"] or (),
        found["jobs_per_s"],
        found["error_rate"],
    )


def _consumed(broker: RelayBroker, queues: list[str]) -> set[str] | None:
    """The queues that a live worker consumes; None if that is not known."""
    try:
        return broker.inspector.consumed(queues)
    except NotAvailable:
        return None


ROUTES = (Route("/", "overview", show, label="Overview"),)
