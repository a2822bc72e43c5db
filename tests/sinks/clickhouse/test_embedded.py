"""chdb:// with several processes; each test starts its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from formrelay.core.errors import ConfigError
from tests.sinks.clickhouse.conftest import open_clickhouse

PROGRAMS = str(Path(__file__).with_name("embedded_programs.py"))


def run(program: str, url: str, *arguments: str, cwd: Path | None = None) -> str:
    """Run a program in a new process; returns its output. Fails if it hangs."""
    done = subprocess.run(
        [sys.executable, PROGRAMS, program, url, *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"chdb://{tmp_path}/data"


def test_a_second_process_gets_an_error_with_the_pid_of_the_first(url: str) -> None:
    pid, _, rest = run("two_processes", url).partition(" ")
    assert rest.startswith("SinkUnavailable: ")
    assert f"in use by another process ({pid})" in rest
    assert "one process per folder" in rest
    assert len(rest.splitlines()) == 1


def test_the_folder_is_unlocked_when_its_process_is_killed(url: str) -> None:
    run("killed_child", url)


def test_a_client_created_before_a_fork_and_used_after_it_works(url: str) -> None:
    run("made_before_a_fork", url)


@pytest.mark.parametrize("in_child", ["client", "another"])
def test_a_forked_child_gets_an_error_and_does_not_hang(url: str, in_child: str) -> None:
    out = run("opened_before_a_fork", url, in_child)
    assert out.startswith("SinkUnavailable: ")
    assert "before this one was forked" in out


def test_a_second_folder_is_an_error_until_the_first_is_closed(
    tmp_path: Path,
) -> None:
    first, second, third = run("two_folders", f"chdb://{tmp_path}").splitlines()
    assert first.startswith("ConfigError: expected one chdb:// folder per process")
    assert second == "ConfigError"
    assert third == "no error"


def test_a_relative_folder_is_created_below_the_working_directory(tmp_path: Path) -> None:
    assert run("ping", "chdb://.formrelay/clickhouse", cwd=tmp_path) == "no error"
    assert any((tmp_path / ".formrelay" / "clickhouse").iterdir())
    assert (tmp_path / ".formrelay" / "clickhouse.lock").is_file()


def test_the_next_process_reads_the_inserted_rows(url: str) -> None:
    assert [run("write", url), run("write", url)] == ["1", "2"]


@pytest.mark.parametrize("folder", ["{tmp}/file/data", "/proc/formrelay/data", "/proc"])
def test_a_folder_that_cannot_be_created_or_written_is_a_clear_error(
    folder: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can be written to") as caught:
        open_clickhouse(f"chdb://{folder.format(tmp=tmp_path)}", "events").ping()
    assert "\n" not in str(caught.value)
