"""The folders of test runs: in memory if there is enough, and never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from scripts.checks import folder_in_memory
from tests.support.checkout import ROOT
from tests.support.missing import skip_or_fail
from tests.support.servers import folders
from tests.support.servers.run import Run
from tests.support.waiting import wait_until

RUN = [sys.executable, "-m", "tests.scripts.run_to_kill"]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the runs of a test make theirs."""
    monkeypatch.setenv(folders.VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def running(base: Path) -> Iterator[dict[str, Any]]:
    """A run in another process, with a server: its process ids and its folder."""
    with subprocess.Popen(
        RUN, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        assert Path(found["folder"]).parent == base
        yield found
        for pid in found["pids"]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def age(folder: str) -> None:
    """Make it look as if made long ago."""
    os.utime(folder, (0, 0))


def start_another() -> None:
    with closing(Run()):
        pass


def is_alive(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return " Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:2]
    return False


def test_a_run_killed_with_its_guard_is_cleared_by_the_next(running: dict[str, Any]) -> None:
    run, guard, server = running["pids"]
    age(running["folder"])
    start_another()
    assert is_alive(server), "a run that goes on was cleared"
    os.kill(guard, signal.SIGKILL)
    os.kill(run, signal.SIGKILL)
    wait_until(lambda: not is_alive(run) and not is_alive(guard))
    assert is_alive(server)
    start_another()
    wait_until(lambda: not is_alive(server))
    assert not Path(running["folder"]).exists()


def test_a_guard_whose_run_was_killed_keeps_the_folder_until_it_has_cleared_it(
    running: dict[str, Any],
) -> None:
    run, guard, server = running["pids"]
    os.kill(guard, signal.SIGSTOP)
    os.kill(run, signal.SIGKILL)
    wait_until(lambda: not is_alive(run))
    age(running["folder"])
    start_another()
    assert is_alive(server)
    os.kill(guard, signal.SIGCONT)
    wait_until(lambda: not Path(running["folder"]).exists() and not is_alive(server))


def test_other_folders_and_new_ones_stay(base: Path) -> None:
    for name in ("formrelay-mine", "other", f"formrelay-{'0' * 16}"):
        (base / name).mkdir()
    for name in ("formrelay-mine", "other"):
        age(str(base / name))
    start_another()
    assert len(list(base.iterdir())) == 3


@pytest.mark.process
@pytest.mark.parametrize(("size", "is_enough"), [("64m", False), ("5g", True)])
def test_servers_are_in_memory_if_it_is_large_enough(size: str, is_enough: bool) -> None:
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        skip_or_fail("mounting a file system needs root")
    if min(folders._free()) < 4 * 2**30:
        pytest.skip("the machine has less memory than a test run keeps data in")
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    show = "from tests.support.servers import folders; print(folders.in_memory())"
    command = ["unshare", "-m", "sh", "-euc", f'{mount}; exec "$@"', "sh", sys.executable]
    printed = subprocess.check_output([*command, "-c", show], cwd=ROOT, text=True)
    assert printed == ("/dev/shm\n" if is_enough else "None\n")


@pytest.mark.parametrize("limit", [2**30, 2**40])
def test_a_container_with_too_little_memory_has_servers_on_disk(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "max").write_text(f"{limit}\n")
    (tmp_path / "without").write_text("max\n")
    names = ("max", "without", "absent")
    monkeypatch.setattr(folders, "_LIMITS", [str(tmp_path / name) for name in names])
    monkeypatch.setattr(folders, "_MEMORY", tmp_path)
    assert min(folders._free()) <= limit
    monkeypatch.setattr(folders, "_ENOUGH", 2 * 2**30 if limit == 2**30 else 1)
    monkeypatch.delenv(folders.VARIABLE, raising=False)
    if limit == 2**30:
        assert folder_in_memory() == {}
        assert "on disk" in capsys.readouterr().out
    else:
        assert folder_in_memory() == {folders.VARIABLE: str(tmp_path)}
    monkeypatch.setenv(folders.VARIABLE, "/mine")
    assert folder_in_memory() == {}
