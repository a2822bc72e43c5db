"""The long tasks that operators start: their progress, and who asked to stop them.

The process that runs a task writes its record; pages of every process read it. The record of a task
whose process has ended stays unchanged, which an old :attr:`TaskRecord.updated_at` shows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from threading import Lock
from typing import Literal, Protocol

from ..core.clock import SYSTEM_CLOCK, Clock
from .millis import from_millis

#: How long a task is kept after its last change.
KEEP = timedelta(days=1)
#: Maximum number of tasks; the oldest are removed.
MAX_TASKS = 50

TaskState = Literal["waiting", "running", "done", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task and its progress.

    Attributes:
        id: random text.
        action: like a command: ``dlq replay``.
        filter: the selected messages, in words.
        who: the operator who started it.
        done: number of messages changed so far.
        total: number of messages to change; None if it is not known.
        text: the error of a failed task; who stopped a stopped task.
        began_at: time of the first write, UTC; set by the store.
        updated_at: time of the last write, UTC; set by the store.
        stopped_by: who asked first to stop it; None: nobody. Set by the store.
    """

    id: str
    action: str
    filter: str
    who: str
    state: TaskState = "waiting"
    done: int = 0
    total: int | None = None
    text: str = ""
    began_at: datetime | None = None
    updated_at: datetime | None = None
    stopped_by: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state in ("done", "stopped", "failed")


class TaskStore(Protocol):
    """Tasks by id. Each call is atomic.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: the store failed.
    """

    def write(self, record: TaskRecord) -> str | None:
        """Store a task as it is now; return who asked to stop it, or None."""

    def find(self, id: str) -> TaskRecord | None:
        """Return a task; None if it is unknown, or older than :data:`KEEP`."""

    def newest(self) -> Sequence[TaskRecord]:
        """Return the tasks, the newest first."""

    def request_stop(self, id: str, who: str) -> bool:
        """Ask a task to stop after its current step; False if it is over or unknown."""


class MemoryTaskStore:
    """The tasks of this process. Thread-safe."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        self._tasks: OrderedDict[str, TaskRecord] = OrderedDict()

    def write(self, record: TaskRecord) -> str | None:
        with self._lock:
            now = self._now()
            old = self._get(record.id, now)
            began, by = (now, None) if old is None else (old.began_at, old.stopped_by)
            stored = replace(record, began_at=began, updated_at=now, stopped_by=by)
            self._tasks[record.id] = stored
            while len(self._tasks) > MAX_TASKS:
                self._tasks.popitem(last=False)
            return by

    def find(self, id: str) -> TaskRecord | None:
        with self._lock:
            return self._get(id, self._now())

    def newest(self) -> Sequence[TaskRecord]:
        with self._lock:
            now = self._now()
            found = (self._get(id, now) for id in [*self._tasks][::-1])
            return [record for record in found if record is not None]

    def request_stop(self, id: str, who: str) -> bool:
        with self._lock:
            record = self._get(id, self._now())
            if record is None or record.is_over:
                return False
            self._tasks[id] = replace(record, stopped_by=record.stopped_by or who)
            return True

    def _get(self, id: str, now: datetime) -> TaskRecord | None:
        record = self._tasks.get(id)
        if record is not None and record.updated_at is not None and record.updated_at + KEEP <= now:
            del self._tasks[id]
            return None
        return record

    def _now(self) -> datetime:
        return from_millis(int(self._clock.time() * 1000))
