"""Why a worker does not work is told apart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from formrelay.brokers import QueueCounts, WorkerInfo
from formrelay.core.process import process_key
from formrelay.ops.health.worker_states import WorkerState, judge, problems, without_worker
from formrelay.state.worker_reports import WorkerReport
from tests.ops.metrics.processes import snapshot
from tests.support.waiting import wait_until

NOW = 1_800_000_000.0


def judged(*, heartbeat: float | None = None, is_listed: bool = False, **report: Any) -> Any:
    """Judge a worker; ``heartbeat``: seconds since its last one, by the broker."""
    found = WorkerReport("host:1", "1", **report) if report else None
    age = 0.0 if found is None else found.age
    last = NOW - (age if heartbeat is None else heartbeat)
    id = "worker" if is_listed or found is None else found.id
    return judge(WorkerInfo(id, last, ("q",), "host:1", found), NOW, 15.0)


@pytest.mark.parametrize(
    ("report", "state", "why"),
    [
        ({"age": 20}, "ok", ""),
        ({"stalled": 21}, "hangs", "a consumer has not looked for jobs for 21s"),
        ({"problem": "no answer"}, "no_broker", "no answer"),
        # A consumer that waits for its broker is not to blame.
        ({"problem": "no answer", "stalled": 21}, "no_broker", "no answer"),
        ({"age": 21, "problem": "no answer"}, "silent", "last report 21s ago: it was killed, "),
        ({"age": 21, "has_ended": True}, "died", "last report 21s ago: its process was killed"),
    ],
)
def test_a_report_tells_what_its_worker_does(report: Any, state: str, why: str) -> None:
    found = judged(**report)
    assert found.state == state
    assert found.why.startswith(why)


def test_heartbeats_tell_of_workers_without_a_report() -> None:
    assert judged(heartbeat=15).state is WorkerState.OK
    assert judged(heartbeat=16).state is WorkerState.SILENT
    listed = WorkerInfo("id", None, ("q",))  # the broker lists only workers that are connected
    assert judge(listed, NOW, 15.0).state is WorkerState.OK


def test_a_worker_with_heartbeats_and_without_reports_is_cut_off_from_the_store() -> None:
    found = judged(heartbeat=1, is_listed=True, age=50)
    assert (found.state, "cannot reach the shared store" in found.why) == (WorkerState.SILENT, True)
    assert judged(heartbeat=16, is_listed=True, age=50).why.startswith("last report")


def test_on_its_machine_a_silent_process_is_looked_up() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        key = process_key(process.pid)
        assert "hangs or cannot reach the store" in judged(age=21, process=key).why
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: judged(age=21, process=key).state is WorkerState.HANGS)
        process.kill()
        wait_until(lambda: judged(age=21, process=key).state is WorkerState.DIED)


def test_problems_have_a_kind_and_name_the_worker_or_the_queue() -> None:
    workers = [
        {"id": "i", "name": "a:1", "state": "ok", "why": None},
        {"id": "i", "name": None, "state": "hangs", "why": "it does nothing"},
    ]
    counts = [
        QueueCounts("read", 5, 0, 0, 0),
        QueueCounts("paused", 5, 0, 0, 0, paused=True),
        QueueCounts("empty", 0, 0, 0, 7),
        QueueCounts("due", 0, 2, 0, 0),
        QueueCounts("unread", 3, None, 0, 0),
    ]
    assert problems(workers, without_worker(counts, {"read"})) == [
        {"kind": "hangs", "worker": "i", "why": "it does nothing"},
        {"kind": "no_worker", "queue": "due", "why": "2 jobs and no live worker"},
        {"kind": "no_worker", "queue": "unread", "why": "3 jobs and no live worker"},
    ]


@pytest.mark.parametrize(
    ("here", "state", "why"),
    [
        ({}, "silent", "last report 21s ago: it works, but cannot reach the shared store"),
        ({"problem": "no answer", "stalled": 30.0}, "no_broker", "no answer"),
        ({"age": 25.0}, "hangs", "its process runs, but has done nothing"),
        ({"stalled": 21.0}, "hangs", "a consumer has not looked for jobs for 21s"),
    ],
)
def test_the_file_of_a_live_process_tells_why_it_is_silent(
    here: dict[str, Any], state: str, why: str
) -> None:
    here = dict(here)
    report = WorkerReport("host:1", "1", age=21)
    worker = WorkerInfo("host:1", NOW - 21, ("q",), "host:1", report)
    at = time.monotonic() - here.pop("age", 0.0)
    found = judge(worker, NOW, 15.0, snapshot("1-aa", monotonic=at, **here))
    assert (found.state, found.why[: len(why)]) == (state, why)
