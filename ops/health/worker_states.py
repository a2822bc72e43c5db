"""Decides why a worker process does not work, and which queues have jobs but no worker.

Uses the heartbeats of the broker and the reports of the workers; on the machine of a worker, also
its process and its snapshot for WORKER_HTTP_PORT.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ...brokers import QueueCounts, WorkerInfo
from ...core.process import Fate, fate_of
from ...state.worker_reports import SILENT_AFTER, WorkerReport
from ..metrics.snapshot import Snapshot
from ..output import age


class WorkerState(StrEnum):
    """What a worker process does. The values are public: JSON and alerts have them."""

    OK = "ok"
    #: A consumer, or the process as a whole, does nothing.
    HANGS = "hangs"
    #: It runs, and cannot use the broker.
    NO_BROKER = "no_broker"
    #: The process ended without saying so: it was killed, or crashed.
    DIED = "died"
    #: It does not report, and no process of its machine knows why.
    SILENT = "silent"


#: The state of a queue with jobs that no live worker consumes, beside the states of workers.
NO_WORKER = "no_worker"
#: States in which somebody has to act. If a worker died, other workers run its jobs; a silent
#: worker may have run on a machine that was removed.
FAILING = frozenset((WorkerState.HANGS, WorkerState.NO_BROKER))


@dataclass(frozen=True, slots=True)
class Judgement:
    """The state of a worker, and why it is in that state; empty if it works."""

    state: WorkerState
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return ``state`` and ``why``; None if it works."""
        return {"state": self.state.value, "why": self.why or None}


_OK = Judgement(WorkerState.OK)
_SILENT = SILENT_AFTER.total_seconds()


def judge(
    worker: WorkerInfo, now: float, heartbeat_timeout: float, here: Snapshot | None = None
) -> Judgement:
    """Decide the state of a worker process.

    Args:
        now: Unix seconds, by this machine's clock.
        heartbeat_timeout: seconds after which a worker without a heartbeat counts as dead.
        here: the snapshot of the process, if it runs on this machine and is alive.
    """
    report, last = worker.report, worker.last_heartbeat
    if here is not None and (judged := judge_snapshot(here)).state is not WorkerState.OK:
        return judged
    if report is None:
        if last is None or now - last <= heartbeat_timeout:
            return _OK
        why = f"last heartbeat {age(now - last)} ago: it was killed, hangs, or is cut off"
        return Judgement(WorkerState.SILENT, why)
    if not report.is_silent:
        return judge_report(report)
    is_listed = worker.id != report.id
    has_heartbeat = is_listed and last is not None and now - last <= heartbeat_timeout
    if has_heartbeat or here is not None:
        why = f"last report {age(report.age)} ago: it works, but cannot reach the shared store"
        return Judgement(WorkerState.SILENT, why)
    return _silent(report)


def judge_snapshot(here: Snapshot) -> Judgement:
    """Decide the state of a live process of this machine from its snapshot."""
    if here.age > _SILENT:
        why = f"its process runs, but has done nothing for {age(here.age)}"
        return Judgement(WorkerState.HANGS, why)
    if here.problem:
        return Judgement(WorkerState.NO_BROKER, here.problem)
    return _stalled(here.stalled)


def _stalled(seconds: float) -> Judgement:
    if seconds <= _SILENT:
        return _OK
    return Judgement(WorkerState.HANGS, f"a consumer has not looked for jobs for {age(seconds)}")


def judge_report(report: WorkerReport) -> Judgement:
    """Decide the state of a worker from its report alone: the same on every machine."""
    if report.has_ended:
        return Judgement(WorkerState.DIED, _killed(report))
    if report.is_silent:
        says = "it was killed, hangs, or cannot reach the store"
        return Judgement(WorkerState.SILENT, f"{_since(report)}: {says}")
    # First, since consumers that wait for a broker look as if they hung.
    if report.problem:
        return Judgement(WorkerState.NO_BROKER, report.problem)
    return _stalled(report.stalled)


def _since(report: WorkerReport) -> str:
    return f"last report {age(report.age)} ago"


def _killed(report: WorkerReport) -> str:
    return f"{_since(report)}: its process was killed or crashed"


def _silent(report: WorkerReport) -> Judgement:
    """Decide the state of a silent worker, whose process this machine may know."""
    judged, since = judge_report(report), _since(report)
    if judged.state is WorkerState.DIED:
        return judged
    match fate_of(report.process):
        case Fate.ENDED:
            return Judgement(WorkerState.DIED, _killed(report))
        case Fate.STOPPED:
            return Judgement(WorkerState.HANGS, f"{since}: its process is stopped (SIGSTOP)")
        case Fate.RUNS:
            says = "its process runs, but hangs or cannot reach the store"
            return Judgement(WorkerState.SILENT, f"{since}: {says}")
        case Fate.UNKNOWN:
            return judged


def without_worker(counts: Iterable[QueueCounts], consumed: Iterable[str]) -> list[QueueCounts]:
    """The queues with jobs that no live worker consumes, except paused queues.

    Args:
        consumed: names of the queues that live workers consume.
    """
    read = set(consumed)
    return [each for each in counts if each.queue not in read and not each.paused and jobs(each)]


def jobs(counts: QueueCounts) -> int:
    """The number of jobs that a worker of a queue would run: waiting, or scheduled on Redis."""
    return counts.waiting + (counts.scheduled or 0)  # a worker makes due jobs waiting


def problems(
    workers: Sequence[dict[str, Any]], stuck: Sequence[QueueCounts]
) -> list[dict[str, Any]]:
    """Return what does not work: ``kind`` (a state), ``worker`` or ``queue``, and ``why``.

    Args:
        workers: the worker processes as JSON (:func:`.status_json.worker_to_json`).
        stuck: the queues of :func:`without_worker`.
    """
    found: list[dict[str, Any]] = [
        {"kind": each["state"], "worker": each["name"] or each["id"], "why": each["why"]}
        for each in workers
        if each["state"] != WorkerState.OK
    ]
    found += [
        {
            "kind": NO_WORKER,
            "queue": each.queue,
            "why": f"{jobs(each):,} job{'' if jobs(each) == 1 else 's'} and no live worker",
        }
        for each in stuck
    ]
    return found
