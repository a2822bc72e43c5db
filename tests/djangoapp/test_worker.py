"""``manage.py formrelay_worker`` runs jobs of formrelay and of the project."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.actors.receiver import Receiver, receiving
from tests.djangoapp.host import APPS, PROJECT, Host
from tests.support.command import Program, start_python
from tests.support.waiting import wait_until

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@contextmanager
def worker(
    host: Host, *options: str, command: Sequence[str] = ("formrelay_worker",)
) -> Iterator[Program]:
    """A worker, started in another folder than the project's."""
    process = start_python(
        *(str(PROJECT / "manage.py"), *command, *options),
        cwd=host.folder,
        # PYTHONPATH leads to the project, as with manage.py.
        env=host.env | {"PYTHONPATH": str(APPS)},
        log=host.folder / "worker.log",
        may_exec=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def working(host: Host) -> Host:
    host.settings["FORMRELAY"] |= {
        "WEBHOOK_ALLOW_HTTP": True,
        "WEBHOOK_ALLOWED_PRIVATE_CIDRS": "127.0.0.0/8",
        "WEBHOOK_DELIVERY_LOG": False,
        "API_URL": "http://127.0.0.1:1",
        "API_TOKEN": "t",
    }
    return host


def test_a_worker_runs_jobs_of_formrelay_and_of_the_project_until_sigterm(
    working: Host, receiver: Receiver
) -> None:
    working.call("project.send_webhook_and_notes", f"{receiver.url}/hook", KEY)
    options = ["-q", "webhooks", "--queue", "notes", "--processes", "1", "--threads", "1"]
    with worker(working, *options) as process:
        wait_until(lambda: receiver.of("/hook") and len(working.notes()) == 2)
        # Each job started without the connection of the previous job (CONN_MAX_AGE is 0).
        assert working.notes() == [("one", True), ("two", True)]
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert time.monotonic() - begun < 10
    log = (working.folder / "worker.log").read_text()
    assert '"logger":"formrelay' in log
    assert "Traceback" not in log


def refused(host: Host, *options: str) -> tuple[int, str]:
    done = host.manage("formrelay_worker", *options)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_worker_that_cannot_start_prints_an_error_of_one_line(tmp_path: Path) -> None:
    nowhere: dict[str, Any] = {"REDIS_URL": "redis://:hush@127.0.0.1:1/0"}
    host = Host(tmp_path, settings={"FORMRELAY": nowhere})
    status, said = refused(host, "--queue", "nope")
    assert (status, "expected a queue (" in said) == (2, True)
    assert "notes" in said, "the project's own queue is listed too"
    status, said = refused(host, "--queue", "notes")
    assert (status, "127.0.0.1:1" in said, "hush" in said) == (1, True, False)
    status, said = refused(host, "--threads", "0")
    assert (status, "at least 1" in said) == (2, True)
    host.settings = {}
    status, said = refused(host)
    assert (status, "REDIS_URL" in said) == (2, True)


def test_actors_in_tasks_py_of_an_app_are_found_and_run(working: Host) -> None:
    working.settings["FIRST_APPS"] = ["tasked"]
    assert working.call("project.send_by_name", "file_note", "from tasks.py") == "filed"
    with worker(working, "-q", "filed", "--processes", "1", "--threads", "1"):
        wait_until(lambda: [text for text, _ in working.notes()] == ["from tasks.py"])
