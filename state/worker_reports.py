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
#: store. Also how long a consumer may not look for messages before it counts as hanging. Four
#: reports may be missed, and both are known within 30 s, including the interval of reports.
SILENT_AFTER = timedelta(seconds=20)
#: How long the last report of a worker is kept.
KEEP = timedelta(minutes=10)
#: Maximum number of running jobs and of queues that a report names.
MAX_RUNNING, MAX_QUEUES = 20, 200
#: Maximum number of queues whose sizes a report has.
MAX_SIZES = 20
#: Maximum number of silent workers of a machine that one call returns.
MAX_SILENT = 20
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
class QueueSize:
    """How many messages a queue holds, as a worker last counted them.

    None means not available on this broker.
    """

    queue: str
    waiting: int
    scheduled: int | None
    in_flight: int | None
    dead: int


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
        rate: attempts per second in the last minute.
        error_rate: share of these attempts that failed, 0 to 1; None without attempts.
        sizes: the sizes of its queues, at most :data:`MAX_SIZES`; at first, or while the broker
            does not answer, there are none.
        process: the key of the process (:func:`~formrelay.core.process.process_key`); empty if the
            system has none.
        instance: a random text of the process: names repeat, above all in containers.
        payload_keys: the ids of the keys with which it can decrypt secrets of payloads.
        has_ended: whether another worker of its machine saw that the process has ended without
            removing its report; set by the store.
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
    rate: float = 0.0
    error_rate: float | None = None
    sizes: tuple[QueueSize, ...] = ()
    process: str = ""
    instance: str = ""
    payload_keys: tuple[str, ...] = ()
    has_ended: bool = False
    age: float = 0.0

    @property
    def id(self) -> str:
        """The name under which the report is stored, never that of another process."""
        return f"{self.name}/{self.instance}" if self.instance else self.name

    @property
    def is_silent(self) -> bool:
        """Whether the worker has not reported for longer than :data:`SILENT_AFTER`."""
        return self.age > SILENT_AFTER.total_seconds()

    @property
    def hangs(self) -> bool:
        """Whether a consumer has not looked for a message for longer than :data:`SILENT_AFTER`."""
        return self.stalled > SILENT_AFTER.total_seconds()

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON, without the id, ``age`` and ``has_ended``."""
        data = asdict(self)
        for name in ("name", "instance", "age", "has_ended"):
            del data[name]
        return data

    @classmethod
    def from_json(cls, id: str, data: Any, age: float, *, has_ended: bool = False) -> WorkerReport:
        """Read a report of this or another version: unknown and malformed fields are ignored."""
        name, _, instance = id.partition("/")
        known = data if isinstance(data, dict) else {}
        process = known.get("process")
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
            _number(known.get("rate")),
            _number_or_none(known.get("error_rate")),
            tuple(map(_size, _items(known.get("sizes"))))[:MAX_SIZES],
            process if isinstance(process, str) else "",
            instance,
            tuple(each for each in _items(known.get("payload_keys")) if isinstance(each, str)),
            has_ended,
            age,
        )


class WorkerReports(Protocol):
    """The last report of each worker process, by id. Each call is atomic.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: the store failed.
    """

    def report(self, report: WorkerReport) -> list[WorkerReport]:
        """Store a report in place of the worker's last report.

        Returns:
            The silent workers of the same host that are not known to have ended, at most
            :data:`MAX_SILENT`: only a process of their machine can tell whether they still run.
        """

    def mark_ended(self, report: WorkerReport) -> None:
        """Note that the process of a report has ended."""

    def remove(self, id: str) -> None:
        """Remove the report of a worker that ends."""

    def read(self) -> list[WorkerReport]:
        """Return the reports that have not expired, by name; at most :data:`MAX_REPORTS`."""


class MemoryWorkerReports:
    """Reports of this process alone. Thread-safe."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        self._reports: dict[str, tuple[float, WorkerReport]] = {}

    def report(self, report: WorkerReport) -> list[WorkerReport]:
        with self._lock:
            self._reports[report.id] = (self._clock.time(), report)
            self._expire()
        return []  # all are of this process

    def mark_ended(self, report: WorkerReport) -> None:
        """Do nothing: a process that has ended has no reports in its memory."""

    def remove(self, id: str) -> None:
        with self._lock:
            self._reports.pop(id, None)

    def read(self) -> list[WorkerReport]:
        with self._lock:
            self._expire()
            now = self._clock.time()
            aged = [replace(report, age=now - at) for at, report in self._reports.values()]
        return newest(aged)

    def _expire(self) -> None:
        oldest = self._clock.time() - KEEP.total_seconds()
        self._reports = {
            id: (at, report) for id, (at, report) in self._reports.items() if at > oldest
        }


def newest(reports: Iterable[WorkerReport]) -> list[WorkerReport]:
    """Return the newest :data:`MAX_REPORTS` reports, by name."""
    found = sorted(reports, key=lambda report: (report.age, report.id))[:MAX_REPORTS]
    return sorted(found, key=lambda report: report.id)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else 0


def _number_or_none(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None


def _size(data: Any) -> QueueSize:
    known = data if isinstance(data, dict) else {}
    scheduled, in_flight = known.get("scheduled"), known.get("in_flight")
    return QueueSize(
        str(known.get("queue", "")),
        int(_number(known.get("waiting"))),
        scheduled if isinstance(scheduled, int) else None,
        in_flight if isinstance(in_flight, int) else None,
        int(_number(known.get("dead"))),
    )


def _running(data: Any) -> RunningJob:
    known = data if isinstance(data, dict) else {}
    jobs = int(_number(known.get("jobs", 1)))
    return RunningJob(str(known.get("actor", "")), _number(known.get("seconds")), jobs)


def _paused(data: Any) -> PausedSink:
    known = data if isinstance(data, dict) else {}
    is_failing = known.get("is_failing") is not False
    return PausedSink(str(known.get("sink", "")), _number(known.get("seconds")), is_failing)
