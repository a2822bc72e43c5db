"""Django's Tasks API on formrelay's queues, in projects of all kinds.

Tests of what a worker does with tasks are in test_tasks_run.py, where they share a worker.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import django
import pytest

from tests.djangoapp.host import Host
from tests.djangoapp.test_worker import worker
from tests.support.waiting import wait_until

BACKEND = "formrelay.djangoapp.tasks.FormrelayBackend"
#: The app of Django's Tasks API, where Django does not have it.
PACKAGE = [] if django.VERSION >= (6, 0) else ["django_tasks"]
QUEUES = ["default", "slow"]
ONE = ["--tasks", "--processes", "1", "--threads", "4"]


def tasked(host: Host, **options: Any) -> Host:
    """The project with tasks."""
    fast = {"min_backoff": 10, "max_backoff": 50}
    host.settings |= {
        "LAST_APPS": ["chores", *PACKAGE],
        "TASKS": {
            "default": {"BACKEND": BACKEND, "QUEUES": QUEUES, "OPTIONS": fast | options},
            "at_once": {"BACKEND": BACKEND, "QUEUES": QUEUES, "ENQUEUE_ON_COMMIT": False},
            "any_queue": {"BACKEND": BACKEND, "QUEUES": []},
        },
    }
    return host


@pytest.fixture
def chores(host: Host, redis_url: str) -> Host:
    """The project with tasks, whose results are kept in Redis."""
    host.settings["FORMRELAY"].setdefault("STATE_URL", redis_url)
    return tasked(host)


def texts(host: Host) -> list[str]:
    return [text for text, _ in host.notes()]


def result(host: Host, id: str) -> dict[str, Any]:
    found: dict[str, Any] = host.call("tasks.result", id)
    return found


def finished(host: Host, id: str) -> dict[str, Any]:
    """Wait for the end of a task; returns its result, which is stored before the signal."""
    wait_until(lambda: "finished" in [name for name, _ in signals(host, id)])
    return result(host, id)


def signals(host: Host, id: str) -> list[list[str]]:
    """The signals of a task and its status at each."""
    file = host.folder / "signals"
    lines = file.read_text().splitlines() if file.exists() else []
    found = [json.loads(line) for line in lines]
    return [[name, status] for name, of, status in found if of == id]


@pytest.mark.slow
def test_a_task_whose_worker_is_killed_runs_again(chores: Host) -> None:
    chores.settings["FORMRELAY"] |= {"HEARTBEAT_TIMEOUT": 2}
    id = chores.call("tasks.send", "until_told", "killed")
    with worker(chores, *ONE) as process:
        victim = _first_pid(chores.folder / "killed.pids")
        process.kill()
        process.wait()
        os.kill(victim, signal.SIGKILL)
    assert texts(chores) == []
    (chores.folder / "killed.go").touch()
    with worker(chores, *ONE):
        wait_until(lambda: texts(chores) == ["killed"])
        found = finished(chores, id)
    assert (found["status"], found["attempts"]) == ("SUCCESSFUL", 2)


def _first_pid(file: Path) -> int:
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
    return int(file.read_text().split()[0])


def test_a_task_is_sent_when_the_transaction_commits(chores: Host) -> None:
    found = chores.call("tasks.in_transactions")
    assert found == {
        "inside": [None, 0, {}],
        "after": [True, 2, "READY"],
        "rolled back": [None, 2, {}],
        "at once": [True, 3],
    }
    names = [json.loads(line)[0] for line in (chores.folder / "signals").read_text().splitlines()]
    assert names == ["enqueued"] * 3


@pytest.mark.redis
def test_a_task_that_can_never_run_is_refused_when_it_is_enqueued(
    tmp_path: Path, redis_url: str
) -> None:
    host = tasked(Host(tmp_path, settings={"FORMRELAY": {"REDIS_URL": redis_url}}).migrated())
    found = host.call("tasks.refused")
    assert found.pop("nothing was sent") == ["0"]
    expected = {
        "unknown queue": ("InvalidTask", "Queue 'other' is not valid for backend"),
        "queue name": ("InvalidTask", "Queue 'a b' is not valid for backend: expected letters"),
        "own queue": ("InvalidTask", "formrelay's own actors, got 'webhooks'"),
        "priority": ("InvalidTask", "whole number between -100 and 100"),
        "half a priority": ("InvalidTask", "whole number between -100 and 100"),
        "naive": ("InvalidTask", "run_after must be an aware datetime"),
        "far off": ("InvalidTask", "at most 30 days from now, got 31 days"),
        "local": ("InvalidTask", "must be defined at a module level"),
        "other name": ("InvalidTask", "'chores.elsewhere._hidden' to be the task"),
        "program": ("InvalidTask", "expected the task '__main__._in_program' in a module"),
        "time": ("NotJson", "chores.tasks.note: expected arguments that JSON can hold"),
        "NaN": ("InvalidJob", "chores.tasks.note: expected arguments that JSON can hold"),
        "key": ("InvalidJob", "chores.tasks.note: expected arguments that JSON can hold"),
        "large": ("MessageTooLarge", "'chores.tasks.note'"),
        "option": ("TypeError", "max_tries"),
        "policy": ("InvalidPolicy", "expected max_retries to be a whole number"),
    }
    assert found.keys() == expected.keys()
    for name, (kind, text) in expected.items():
        assert found[name][0].removesuffix("Error") == kind.removesuffix("Error"), found[name]
        assert text in found[name][1], found[name]


@pytest.mark.slow
@pytest.mark.redis
def test_tasks_run_in_the_order_of_their_priorities(tmp_path: Path, redis_url: str) -> None:
    host = tasked(Host(tmp_path, settings={"FORMRELAY": {"REDIS_URL": redis_url}}).migrated())
    order = host.call("tasks.in_order_of_priority")
    with worker(host, "-q", "default", "--processes", "1", "--threads", "1"):
        wait_until(lambda: len(texts(host)) == len(order))
    assert texts(host) == order


@pytest.mark.slow
@pytest.mark.rabbitmq
def test_on_rabbitmq_what_it_cannot_do_is_refused(tmp_path: Path, rabbitmq_url: str) -> None:
    host = tasked(Host(tmp_path, settings={"FORMRELAY": {"RABBITMQ_URL": rabbitmq_url}}))
    host.migrated()
    supported, error = host.call("tasks.priority_error")
    assert (supported, "RABBITMQ_MAX_PRIORITY=9" in error) == (False, True)
    supported, error = host.call("tasks.result_error", "x")
    assert (supported, "set STATE_URL" in error) == (False, True)
    status, text = host.check()
    assert (status, text.count("formrelay.W006")) == (0, 3)
    host.call("tasks.send", "attempts", 2)
    with worker(host, *ONE):  # attempts are counted without a store
        wait_until(lambda: texts(host) == ["attempt 1", "attempt 2"])
    host.settings["FORMRELAY"]["RABBITMQ_MAX_PRIORITY"] = 9
    assert host.call("tasks.priority_error") == [True, ""]


@pytest.mark.slow
@pytest.mark.redis
def test_a_task_that_kills_its_workers_has_failed(tmp_path: Path, redis_url: str) -> None:
    settings = {"REDIS_URL": redis_url, "HEARTBEAT_TIMEOUT": 2, "MAX_CRASH_DELIVERIES": 1}
    host = tasked(Host(tmp_path, settings={"FORMRELAY": settings}).migrated())
    id = host.call("tasks.send", "until_told", "kills")
    pids: set[str] = set()
    while not host.call("tasks.dead"):
        with worker(host, *ONE) as process:
            _wait_for_another(host, pids)
            new = _pids(host) - pids
            pids |= new
            if new:
                process.kill()
                process.wait()
                _kill(int(new.pop()))
    found = result(host, id)
    assert (found["status"], found["is_finished"]) == ("FAILED", True)
    assert found["attempts"] == len(pids)


def _wait_for_another(host: Host, pids: set[str]) -> None:
    wait_until(lambda: _pids(host) - pids or host.call("tasks.dead"), every=0.3)


def _pids(host: Host) -> set[str]:
    file = host.folder / "kills.pids"
    return set(file.read_text().split()) if file.exists() else set()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.mark.slow
@pytest.mark.rabbitmq
def test_without_the_store_of_results_tasks_are_sent_and_run(
    tmp_path: Path, rabbitmq_url: str
) -> None:
    settings = {"RABBITMQ_URL": rabbitmq_url, "STATE_URL": "redis://127.0.0.1:1/0"}
    host = tasked(Host(tmp_path, settings={"FORMRELAY": settings}).migrated())
    id = host.call("tasks.send", "note", "sent")
    with worker(host, *ONE):
        wait_until(lambda: texts(host) == ["sent"])
        wait_until(lambda: signals(host, id)[-1] == ["finished", "SUCCESSFUL"])
    assert host.call("tasks.result_error", id)[1].startswith("BrokerUnavailable: ")
    assert "task results are not stored" in (host.folder / "worker.log").read_text()


@pytest.mark.redis
def test_a_project_without_a_database_can_enqueue(tmp_path: Path, redis_url: str) -> None:
    settings = {"FORMRELAY": {"REDIS_URL": redis_url}, "DATABASES": {}}
    host = tasked(Host(tmp_path, settings=settings))
    id = host.call("tasks.without_database")
    found = result(host, id)
    assert (found["status"], found["times"]) == ("READY", [True, False, False])


def test_a_worker_for_tasks_needs_a_backend(tmp_path: Path) -> None:
    host = Host(tmp_path, settings={"FORMRELAY": {"REDIS_URL": "redis://127.0.0.1:1/0"}})
    done = host.manage("formrelay_worker", "--tasks")
    assert (done.returncode, "in the setting TASKS" in done.stderr) == (2, True)


def test_a_wrong_backend_is_refused_by_name(tmp_path: Path) -> None:
    host = tasked(Host(tmp_path, settings={"FORMRELAY": {"REDIS_URL": "redis://127.0.0.1:1/0"}}))
    default = host.settings["TASKS"]["default"]

    def said(**changes: Any) -> str:
        host.settings["TASKS"]["default"] = default | changes
        return host.manage("check").stderr

    assert "got 'max_retry'; the nearest is 'max_retries'" in said(OPTIONS={"max_retry": 3})
    assert "got 'QUEUE'; the nearest is 'QUEUES'" in said(QUEUE=["default"])
    assert "['keep_results'] to be a positive timedelta" in said(OPTIONS={"keep_results": 3600})
    assert "['ENQUEUE_ON_COMMIT'] to be a bool" in said(ENQUEUE_ON_COMMIT="no")
    assert "formrelay.E005" in said(QUEUES=["default", "webhooks"])
    assert "formrelay.E005" in said(QUEUES=["default", "a b"])
    assert "formrelay.W005" in said()  # of the backend any_queue
    if PACKAGE:
        host.settings["LAST_APPS"] = ["chores"]
        assert "formrelay.W007" in said()


@pytest.mark.parametrize("theirs", [["a", "b"], {"sweep": "daily"}])
def test_a_setting_of_the_same_name_is_left_alone(tmp_path: Path, theirs: Any) -> None:
    if not PACKAGE:
        pytest.skip("in Django 6 the setting is Django's")
    host = Host(tmp_path, settings={"FORMRELAY": {"REDIS_URL": "redis://127.0.0.1:1/0"}})
    host.settings["TASKS"] = theirs
    assert host.check() == (0, "")
    assert "dead letters" in host.manage("formrelay", "--help").stdout
