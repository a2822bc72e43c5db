"""Reports of worker processes in Redis."""

from __future__ import annotations

import json
from typing import Any

from ..millis import duration_millis
from ..worker_reports import (
    KEEP,
    MAX_REPORTS,
    MAX_SILENT,
    SILENT_AFTER,
    WorkerReport,
    newest,
)
from .base import ScriptStore


class RedisWorkerReports(ScriptStore):
    """Reports of all worker processes, by the server's clock."""

    script = "worker_reports.lua"
    #: Stands behind the namespace.
    prefix = ":__reports__"

    def report(self, report: WorkerReport) -> list[WorkerReport]:
        host = report.name.rpartition(":")[0] + ":"
        limits = (duration_millis(SILENT_AFTER), MAX_SILENT)
        found = self._run("report", report.id, json.dumps(report.to_json()), host, *limits)
        silent = _reports(found)
        return [each for each in silent if not each.has_ended]

    def mark_ended(self, report: WorkerReport) -> None:
        self._run("mark_ended", report.id)

    def remove(self, id: str) -> None:
        self._run("remove", id)

    def read(self) -> list[WorkerReport]:
        return newest(_reports(self._run("read", MAX_REPORTS)))

    def _run(self, what: str, *args: Any) -> Any:
        keys = [self._prefix, f"{self._prefix}.times", f"{self._prefix}.ended"]
        return self._run_script(keys, what, duration_millis(KEEP), *args)


def _reports(found: list[bytes]) -> list[WorkerReport]:
    """Read what the script returns."""
    parts = zip(found[::4], found[1::4], found[2::4], found[3::4], strict=True)
    return [
        WorkerReport.from_json(
            id.decode(errors="replace"), _parsed(data), int(age) / 1000, has_ended=bool(int(ended))
        )
        for id, age, data, ended in parts
    ]


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None
