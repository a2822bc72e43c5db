"""``formrelay worker --reload``: workers with new code, without losing or repeating a job."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ops.shell import Shell
from tests.support.command import clean_environment, start_python
from tests.support.waiting import wait_until

MODULE = """
import time
from pathlib import Path

import dramatiq


@dramatiq.actor(queue_name="notes")
def note(number):
    time.sleep(0.05)
    with Path("done.txt").open("a") as file:
        file.write(f"{number} VERSION\\n")
"""


class Project:
    """A folder with one module of actors, and its worker."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.folder = shell.folder
        self._sent = 0

    def write(self, version: str, text: str = MODULE) -> None:
        (self.folder / "notes.py").write_text(text.replace("VERSION", version))

    def send(self, count: int) -> list[str]:
        """Send jobs; returns their numbers."""
        numbers = [str(number) for number in range(self._sent, self._sent + count)]
        self._sent += count
        self.shell("send", "note", "--import", "notes", stdin="\n".join(numbers))
        return numbers

    def done(self) -> dict[str, list[str]]:
        """Versions that ran each job."""
        found: dict[str, list[str]] = {}
        with (self.folder / "done.txt").open("a+") as file:
            file.seek(0)
            for line in file:
                number, version = line.split()
                found.setdefault(number, []).append(version)
        return found

    def log(self) -> str:
        return (self.folder / "worker.log").read_text()


@pytest.fixture
def project(tmp_path: Path, redis_url: str) -> Project:
    return Project(Shell(tmp_path, BROKER="redis", REDIS_URL=redis_url))


def until(condition: Callable[[], object]) -> None:
    wait_until(condition, every=0.1, timeout=120)


@pytest.mark.redis
@pytest.mark.slow
def test_a_changed_file_runs_and_no_job_is_lost_or_repeated(project: Project) -> None:
    project.write("one")
    supervisor = start_python(
        *("-m", "formrelay", "worker", "notes", "--import", "notes", "--reload"),
        *("--threads", "2"),
        cwd=project.folder,
        env=clean_environment(**project.shell.env),
        log=project.folder / "worker.log",
    )
    sent = project.send(30)
    until(lambda: len(project.done()) > 3)
    project.write("second")  # while jobs are running
    sent += project.send(10)
    until(lambda: project.done().keys() == set(sent))
    assert {len(versions) for versions in project.done().values()} == {1}
    assert project.done()[sent[0]] == ["one"]
    until(lambda: "notes.py changed" in project.log())

    project.write("", "def broken(:\n")
    until(lambda: "the workers ended with status 2" in project.log())
    assert "invalid syntax" in project.log()
    assert supervisor.poll() is None

    project.write("third")
    (last,) = project.send(1)
    until(lambda: project.done().get(last) == ["third"])
    assert {len(versions) for versions in project.done().values()} == {1}
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(60) == 0
