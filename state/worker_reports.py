"""Reports of worker processes: version, memory, queues, and which actors run now.

A worker reports every few seconds, and removes its report when it ends. A killed worker falls
silent: its report is kept for a while, so that operators see it, and then expires.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from threading import Lock
from typing import Any, Protocol

from ..core.clock import SYSTEM_CLOCK, Clock

#: Age of the last report from which a worker is silent: it was killed, hangs, or cannot reach the
#: store.
SILENT_AFTER = timedelta(seconds=30)
#: How long the last report of a worker is kept.
KEEP = timedelta(minutes=10)
#: Maximum number of running jobs and of queues that a report names.
MAX_RUNNING, MAX_QUEUES = 20, 200
#: Maximum length of the text of a problem.
MAX_PROBLEM = 300
#: Maximum number of reports that are read: the newest.
MAX_REPORTS = 1_000


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that runs.

    Attributes:
        actor: name of its actor.
        seconds: how long it had run at the time of the report.
        jobs: number of jobs in a batch; otherwise 1.
    """

    actor: str
    seconds: float
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class PausedSink:
    """A sink for which a worker pauses consumption, or fetches one message to try it again.

    Attributes:
        sink: name of the sink, as in log lines.
        seconds: time until the next try when it was reported.
        is_failing: whether the last attempt failed; False if a limit was reached.
    """

    sink: str
    seconds: float
    is_failing: bool = True


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """The last report of a worker process.

    Attributes:
        name: ``host:pid``.
        version: version of formrelay.
        queues: names of the queues that it consumes, at most :data:`MAX_QUEUES`.
        uptime: seconds since the worker started.
        memory_bytes: resident memory; None if the system does not say.
        running_count: number of jobs that run; a batch counts as one.
        running: the jobs that have run longest, at most :data:`MAX_RUNNING`.
        paused: sinks whose circuit breaker is open or half-open, or that are at a limit.
        stalled: seconds since one of its consumers last looked for a message. Below the worker's
            timeout of a second, unless a consumer hangs.
        problem: why it cannot use the broker; empty if it can.
        age: seconds since the report, by the store's clock; set by the store.
    """

    name: str
    version: str
    queues: tuple[str, ...] = ()
    uptime: float = 0.0
    memory_bytes: int | None = None
    running_count: int = 0
    running: tuple[RunningJob, ...] = ()
    paused: tuple[PausedSink, ...] = ()
    stalled: float = 0.0
    problem: str = ""
    age: float = 0.0

    @property
    def is_silent(self) -> bool:
        """Whether the worker has not reported for longer than :data:`SILENT_AFTER`."""
        return self.age > SILENT_AFTER.total_seconds()

    @property
    def hangs(self) -> bool:
        """Whether a consumer has not looked for a message for longer than :data:`SILENT_AFTER`."""
        return self.stalled > SILENT_AFTER.total_seconds()

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON, without ``name`` and ``age``."""
        data = asdict(self)
        del data["name"], data["age"]
        return data

    @classmethod
    def from_json(cls, name: str, data: Any, age: float) -> WorkerReport:
        """Read a report of this or another version: unknown and malformed fields are ignored."""
        known = data if isinstance(data, dict) else {}
        version, memory = known.get("version"), known.get("memory_bytes")
        problem = known.get("problem")
        return cls(
            name,
            version if isinstance(version, str) else "",
            tuple(each for each in _items(known.get("queues")) if isinstance(each, str)),
            _number(known.get("uptime")),
            memory if isinstance(memory, int) else None,
            int(_number(known.get("running_count"))),
            tuple(_running(each) for each in _items(known.get("running"))),
            tuple(_paused(each) for each in _items(known.get("paused"))),
            _number(known.get("stalled")),
            problem[:MAX_PROBLEM] if isinstance(problem, str) else "",
            age,
        )


class WorkerReports(Protocol):
    """The last report of each worker process, by name. Each call is atomic.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: the store failed.
    """

    def report(self, report: WorkerReport) -> None:
        """Store a report in place of the worker's last report."""

    def remove(self, name: str) -> None:
        """Remove the report of a worker that ends."""

    def read(self) -> list[WorkerReport]:
        """Return the reports that have not expired, by name; at most :data:`MAX_REPORTS`."""


class MemoryWorkerReports:
    """Reports of this process alone. Thread-safe."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        self._reports: dict[str, tuple[float, WorkerReport]] = {}

    def report(self, report: WorkerReport) -> None:
        with self._lock:
            self._reports[report.name] = (self._clock.time(), report)
            self._expire()

    def remove(self, name: str) -> None:
        with self._lock:
            self._reports.pop(name, None)

    def read(self) -> list[WorkerReport]:
        with self._lock:
            self._expire()
            now = self._clock.time()
            aged = [replace(report, age=now - at) for at, report in self._reports.values()]
        return newest(aged)

    def _expire(self) -> None:
        oldest = self._clock.time() - KEEP.total_seconds()
        self._reports = {
            name: (at, report) for name, (at, report) in self._reports.items() if at > oldest
        }


def newest(reports: Iterable[WorkerReport]) -> list[WorkerReport]:
    """Return the newest :data:`MAX_REPORTS` reports, by name."""
    found = sorted(reports, key=lambda report: (report.age, report.name))[:MAX_REPORTS]
    return sorted(found, key=lambda report: report.name)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else 0


def _running(data: Any) -> RunningJob:
    known = data if isinstance(data, dict) else {}
    jobs = int(_number(known.get("jobs", 1)))
    return RunningJob(str(known.get("actor", "")), _number(known.get("seconds")), jobs)


def _paused(data: Any) -> PausedSink:
    known = data if isinstance(data, dict) else {}
    is_failing = known.get("is_failing") is not False
    return PausedSink(str(known.get("sink", "")), _number(known.get("seconds")), is_failing)
