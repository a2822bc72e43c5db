"""Reports of worker processes in Redis."""

from __future__ import annotations

import json
from typing import Any

from ..millis import duration_millis
from ..worker_reports import KEEP, MAX_REPORTS, WorkerReport, newest
from .base import ScriptStore


class RedisWorkerReports(ScriptStore):
    """Reports of all worker processes, by the server's clock."""

    script = "worker_reports.lua"
    #: Stands behind the namespace.
    prefix = ":__reports__"

    def report(self, report: WorkerReport) -> None:
        self._run("report", report.name, json.dumps(report.to_json()))

    def remove(self, name: str) -> None:
        self._run("remove", name)

    def read(self) -> list[WorkerReport]:
        found = self._run("read", MAX_REPORTS)
        parts = zip(found[::3], found[1::3], found[2::3], strict=True)
        return newest(
            WorkerReport.from_json(name.decode(errors="replace"), _parsed(data), int(age) / 1000)
            for name, age, data in parts
        )

    def _run(self, what: str, *args: Any) -> Any:
        keys = [self._prefix, f"{self._prefix}.times"]
        return self._run_script(keys, what, duration_millis(KEEP), *args)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None
