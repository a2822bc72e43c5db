"""Snapshots of worker processes, for tests of files and pages."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from formrelay.core.durations import BIN_COUNT
from formrelay.ops.locked_file import LockedFile
from formrelay.ops.metrics.files import WorkerFiles
from formrelay.ops.metrics.snapshot import Counts, ProcessState, Snapshot


def jobs(done: float = 0, retry: float = 0, seconds: float = 0.0) -> list[float]:
    """A row of the counts of jobs: each took 1 ms at most."""
    return [done, retry, 0, 0, seconds, done + retry, *[0] * (BIN_COUNT - 1)]


def snapshot(id: str = "1-aa", counts: Counts | None = None, **values: Any) -> Snapshot:
    """A snapshot of a ready worker process."""
    known = {
        "id": id,
        "pid": int(id.partition("-")[0]),
        "host": "host",
        "version": "1.2.3",
        "python": "3.11.2",
        "broker": "redis",
        "started": time.time(),
        "at": time.time(),
        "monotonic": time.monotonic(),
        "counts": counts or {},
    }
    return Snapshot(**known | values)


class Process:
    """A worker process, as the files show it."""

    def __init__(self, files: WorkerFiles, id: str, counts: Counts | None = None) -> None:
        self.files = files
        self.snapshot = snapshot(id, counts)
        self.lock: LockedFile = files.register(self.snapshot)

    def write(self, **values: Any) -> None:
        """Write another snapshot."""
        self.snapshot = replace(self.snapshot, **values)
        self.files.write(self.snapshot)

    def end(self, state: ProcessState = ProcessState.ENDED) -> None:
        """End as it should, or be replaced."""
        self.write(state=state)
        self.lock.close()

    def crash(self) -> None:
        """Be killed: the system releases the lock."""
        self.lock.close()
