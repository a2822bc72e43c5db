"""Ctrl-C in the terminal of ``formrelay worker``, once or several times."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.support.brokers import BROKERS
from tests.support.command import clean_environment, run
from tests.support.waiting import wait_until

ACTORS = """
import dramatiq

@dramatiq.actor(queue_name="slow")
def work(name):
    with open("log", "a") as log:
        log.write(name + "\\n")
    open("go").close()  # a pipe: waits until it is written
"""
WORKER = ["-m", "formrelay", "worker", "--import", "mine", "-q", "slow", "--processes", "2"]


def processes_in(folder: Path) -> list[str]:
    """Command lines of the processes whose working directory is a folder."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and (process / "cwd").resolve() == folder.resolve():
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


class Terminal:
    """``formrelay worker`` in a terminal of its own, so that Ctrl-C reaches all its processes."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.child, self._terminal = pty.fork()
        if self.child == 0:
            os.chdir(folder)
            os.execve(sys.executable, [sys.executable, *WORKER], clean_environment(**env))

    def catches_ctrl_c(self) -> bool:
        """Whether Dramatiq's first process no longer blocks SIGINT, as it does at its start.

        While it blocks the signal, several count as one.
        """
        status = Path(f"/proc/{self.child}/status").read_text()
        (blocked,) = re.findall(r"^SigBlk:\s*(\w+)", status, re.MULTILINE)
        return not int(blocked, 16) >> (signal.SIGINT - 1) & 1

    def interrupt(self, times: int) -> str:
        """Type Ctrl-C some times, wait until the worker has ended, and return its output."""
        for _ in range(times):
            os.write(self._terminal, b"\x03")
            time.sleep(0.2)  # signals that follow at once count as one
        return self.wait()

    def wait(self) -> str:
        """Wait until the worker has ended, and return its output."""
        output = b""
        with contextlib.suppress(OSError):  # how Linux reports that the terminal is closed
            while data := os.read(self._terminal, 65_536):
                output += data
        os.close(self._terminal)
        os.waitpid(self.child, 0)
        return output.decode(errors="replace")


@pytest.mark.slow
@pytest.mark.parametrize("url", BROKERS)
def test_three_ctrl_c_leave_no_process_and_the_job_runs_again(
    url: str, request: pytest.FixtureRequest, tmp_path: Path, unique: str
) -> None:
    (tmp_path / "mine.py").write_text(ACTORS)
    os.mkfifo(tmp_path / "go")
    env = {url.upper(): request.getfixturevalue(url), "HEARTBEAT_TIMEOUT": "2"}
    if url == "redis_url":
        env["BROKER_NAMESPACE"] = unique
    run("send", "work", '"job"', "--import", "mine", cwd=tmp_path, env=env)
    log = tmp_path / "log"

    worker = Terminal(tmp_path, env)
    wait_until(log.exists)
    wait_until(worker.catches_ctrl_c)
    output = worker.interrupt(3)
    assert "Killing worker process" in output
    assert "Traceback" not in output
    wait_until(lambda: processes_in(tmp_path) == [])

    # One Ctrl-C lets the job end.
    worker = Terminal(tmp_path, env)
    wait_until(lambda: log.read_text().split() == ["job", "job"])
    (tmp_path / "go").write_text("")
    assert "Killing" not in worker.interrupt(1)
    assert processes_in(tmp_path) == []
    done = run("queues", "--import", "mine", "--json", cwd=tmp_path, env=env)
    assert '"dead": 1' not in done.stdout
    assert '"waiting": 1' not in done.stdout


@pytest.mark.slow
@pytest.mark.redis
def test_sigterm_for_every_process_lets_the_job_end(
    redis_url: str, tmp_path: Path, unique: str
) -> None:
    """As ``timeout`` and systemd's ``KillMode=control-group`` send it."""
    (tmp_path / "mine.py").write_text(ACTORS)
    os.mkfifo(tmp_path / "go")
    env = {"REDIS_URL": redis_url, "BROKER_NAMESPACE": unique}
    run("send", "work", '"job"', "--import", "mine", cwd=tmp_path, env=env)
    worker = Terminal(tmp_path, env)
    wait_until((tmp_path / "log").exists)
    wait_until(worker.catches_ctrl_c)
    os.killpg(worker.child, signal.SIGTERM)
    (tmp_path / "go").write_text("")
    output = worker.wait()
    assert "Killing worker process" not in output
    assert output.count("Worker has been shut down") == 2
    assert processes_in(tmp_path) == []
    assert (tmp_path / "log").read_text().split() == ["job"]
