"""Replays or deletes many dead letters in a thread, with progress that every operator sees.

A task calls ``Inspector.replay`` or ``delete_dead``, which change some hundred messages in a step,
and can be stopped between two steps. Dead letters that it has not reached are unchanged, so after a
stop, or the end of the process, a new task with the same filter continues. A dead letter that two
tasks select is changed by one of them.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ...brokers import DeadFilter, RelayBroker
from ...brokers.inspection import Action
from ...core.errors import BrokerError, FormrelayError, describe
from ...state import make_task_store
from ...state.task_store import MemoryTaskStore, TaskRecord, TaskStore
from ..audit import Audited, Operator, audited, filter_words, id_words

logger = logging.getLogger("formrelay.dashboard")

#: Maximum number of tasks that run at a time in a process, and that wait.
MAX_RUNNING, MAX_WAITING = 2, 20
#: Seconds between two writes of the progress, and of a task that waits.
_WRITE_EVERY, _WRITE_WAITING_EVERY = 0.5, 30.0
#: Seconds without a write after which a task counts as lost.
LOST_AFTER = 90.0
_ACTIONS = {"replay": "dlq replay", "delete": "dlq delete"}


class TooManyTasks(FormrelayError):
    """Too many tasks are waiting: try again when one of them has ended."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The dead letters that a task changes: by a filter, or by their ids.

    Attributes:
        which: the filter; ignored if there are ids.
        ids: ids by queue.
        expected: number of dead letters when the operator was asked; None if it was not counted.
        rate: maximum number of changes per second; None for no limit.
    """

    which: DeadFilter = field(default_factory=DeadFilter)
    ids: Mapping[str, Sequence[str]] = field(default_factory=dict)
    expected: int | None = None
    rate: int | None = None

    @property
    def words(self) -> str:
        """The selection in words."""
        if not self.ids:
            return filter_words(self.which)
        words = (f"queue {queue}: {id_words(list(ids))}" for queue, ids in self.ids.items())
        return "; ".join(words)


@dataclass(eq=False)
class _Task:
    """A task of this process.

    Attributes:
        record: the task as it is in the store.
        on_write: called each time before the progress is written.
        is_closing: set when the process ends.
    """

    broker: RelayBroker
    store: TaskStore
    action: Action
    selection: Selection
    operator: Operator
    record: TaskRecord
    on_write: Callable[[], None]
    is_closing: threading.Event = field(default_factory=threading.Event)
    _stopped_by: str | None = None
    _written_at: float = float("-inf")

    def run(self) -> None:
        """Run the task to its end; raises nothing."""
        try:
            with audited(
                self.record.action,
                filter=self.record.filter,
                operator=self.operator,
                broker=self.broker,
            ) as entry:
                self._write(state="running")
                self._change(entry)
                if self._stopped_by is None:
                    self._write(state="done")
                else:
                    entry.outcome = f"stopped by {self._stopped_by}"
                    self._write(state="stopped", text=self._stopped_by)
        except Exception as error:
            if not isinstance(error, FormrelayError):
                logger.exception("a task of the dashboard failed")
            try:
                self._write(state="failed", text=describe(error))
            except BrokerError as problem:
                logger.warning("the end of a task was not stored: %s", describe(problem))

    def _change(self, entry: Audited) -> None:
        inspector, before = self.broker.inspector, 0
        change = inspector.replay if self.action == "replay" else inspector.delete_dead

        def progress(count: int) -> None:
            entry.progress(before + count)
            self.record = replace(self.record, done=before + count)

        entry.count = 0
        how: dict[str, Any] = {
            "progress": progress,
            "should_stop": self._should_stop,
            "rate": self.selection.rate,
        }
        if not self.selection.ids:
            progress(change(self.selection.which, **how))
        for queue, ids in self.selection.ids.items():
            before += change(list(ids), queue=queue, **how)
            progress(0)

    def _should_stop(self) -> bool:
        """Write the progress from time to time; return whether to stop."""
        if self.is_closing.is_set():
            self._stopped_by = "the end of the dashboard's process"
        now = self.broker.clock.monotonic()
        if now - self._written_at >= _WRITE_EVERY:
            self._written_at = now
            self.on_write()
            self._stopped_by = self._stopped_by or self._write()
        return self._stopped_by is not None

    def _write(self, **changes: Any) -> str | None:
        self.record = replace(self.record, **changes)
        return self.store.write(self.record)


class Tasks:
    """The tasks of a process: starts their threads, and stops them.

    Each thread ends when no task is waiting. Tasks beyond :data:`MAX_RUNNING` wait for their turn.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[_Task] = deque()
        self._running: dict[threading.Thread, _Task | None] = {}
        self._waiting_written_at = float("-inf")

    @cached_property
    def _memory_store(self) -> TaskStore:
        return MemoryTaskStore()

    def store(self, broker: RelayBroker) -> TaskStore:
        """Return the tasks in the shared store; without a shared store, those of this process."""
        return self._memory_store if broker.state is None else make_task_store(broker.state)

    def start(
        self, broker: RelayBroker, action: Action, selection: Selection, operator: Operator
    ) -> str:
        """Start a task, or let it wait for its turn; return its id.

        Raises:
            TooManyTasks: too many tasks are waiting.
            BrokerError: the shared store failed.
        """
        store, id = self.store(broker), secrets.token_hex(6)
        words, total = selection.words, selection.expected
        record = TaskRecord(id, _ACTIONS[action], words, operator.who, total=total)
        task = _Task(broker, store, action, selection, operator, record, self._write_waiting)
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                raise TooManyTasks
        store.write(record)
        with self._lock:
            self._waiting.append(task)
            if len(self._running) < MAX_RUNNING:
                thread = threading.Thread(
                    target=self._work, name="formrelay-dashboard-task", daemon=True
                )
                self._running[thread] = None
                thread.start()
        return id

    def stop(self, timeout: float = 10.0) -> None:
        """Stop all tasks of this process after their current step.

        Args:
            timeout: seconds to wait for each thread.
        """
        with self._lock:
            waiting, running = [*self._waiting], dict(self._running)
            for task in (*waiting, *running.values()):
                if task is not None:
                    task.is_closing.set()
        for thread in running:
            thread.join(timeout)

    def _write_waiting(self) -> None:
        """Write the waiting tasks from time to time, so that they do not count as lost."""
        with self._lock:
            tasks = [*self._waiting]
            now = tasks[0].broker.clock.monotonic() if tasks else 0.0
            if not tasks or now - self._waiting_written_at < _WRITE_WAITING_EVERY:
                return
            self._waiting_written_at = now
        for task in tasks:
            if task.record.state == "waiting":
                task.store.write(task.record)

    def _work(self) -> None:
        """Run waiting tasks until there are none."""
        thread = threading.current_thread()
        while True:
            with self._lock:
                if not self._waiting:
                    del self._running[thread]
                    return
                task = self._waiting.popleft()
                self._running[thread] = task
            task.run()


def is_lost(record: TaskRecord, now: float) -> bool:
    """Whether the process of a task has ended, or cannot reach the store.

    Args:
        now: Unix seconds.
    """
    at = record.updated_at
    is_old = at is not None and now - at.timestamp() > LOST_AFTER
    return not record.is_over and is_old
