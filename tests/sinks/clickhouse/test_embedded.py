"""chdb://, where processes matter: each test runs its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from formrelay.core.errors import ConfigError
from tests.sinks.clickhouse.conftest import open_clickhouse

PROLOGUE = """
import os, sys
from datetime import timedelta
from formrelay.core.errors import FormrelayError
from formrelay.sinks.clickhouse import connect

def open_(url, database="events"):
    return connect(url, database=database, user="default", password=lambda: None,
                   timeout=timedelta(seconds=5), connect_timeout=timedelta(seconds=1))

def error_of(work):
    try:
        work()
    except FormrelayError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"
"""


def run(code: str, *args: str, cwd: Path | None = None) -> str:
    """The output of a process of its own; a hang is a failure."""
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + textwrap.dedent(code), *args],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_second_process_gets_one_clear_error_with_the_first_ones_pid(tmp_path: Path) -> None:
    out = run(
        """
        import subprocess
        client = open_(sys.argv[1]); client.ping()
        code = sys.argv[2] + "print(error_of(open_(sys.argv[1]).ping))"
        second = subprocess.run([sys.executable, "-c", code, sys.argv[1]],
                                capture_output=True, text=True, timeout=20)
        print(os.getpid(), second.stdout, second.stderr)
        client.ping()
        """,
        f"chdb://{tmp_path}/data",
        PROLOGUE,
    )
    pid, _, rest = out.partition(" ")
    assert rest.startswith("SinkUnavailable: ")
    assert f"in use by another process ({pid})" in rest
    assert "one process a folder" in rest
    assert len(rest.splitlines()) == 1


def test_the_folder_is_free_again_after_a_process_was_killed(tmp_path: Path) -> None:
    url = f"chdb://{tmp_path}/data"
    run(
        """
        import signal
        child = os.fork()
        if child == 0:
            open_(sys.argv[1]).ping()
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        open_(sys.argv[1]).ping()
        """,
        url,
    )


def test_a_client_made_before_a_fork_and_opened_after_it_works(tmp_path: Path) -> None:
    run(
        """
        client = open_(sys.argv[1])
        child = os.fork()
        if child == 0:
            client.ping()
            client.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        client.ping()
        """,
        f"chdb://{tmp_path}/data",
    )


@pytest.mark.parametrize("in_child", ["client", "open_(sys.argv[1])"])
def test_a_child_of_a_process_that_opened_it_is_told_and_does_not_hang(
    tmp_path: Path, in_child: str
) -> None:
    out = run(
        f"""
        client = open_(sys.argv[1]); client.ping()
        child = os.fork()
        if child == 0:
            {in_child}.close()
            print(error_of({in_child}.ping), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        client.ping()
        """,
        f"chdb://{tmp_path}/data",
    )
    assert out.startswith("SinkUnavailable: ")
    assert "before this one was forked" in out


def test_a_second_folder_in_one_process_is_a_clear_error_until_the_first_is_closed(
    tmp_path: Path,
) -> None:
    out = run(
        """
        one, two = open_(sys.argv[1] + "/a"), open_(sys.argv[1] + "/b")
        again = open_(sys.argv[1] + "/a/../a", database="other")
        one.ping(); again.ping()
        print(error_of(two.ping))
        one.close()
        print(error_of(two.ping)[:11])
        again.close()
        print(error_of(two.ping))
        """,
        f"chdb://{tmp_path}",
    )
    first, second, third = out.splitlines()
    assert first.startswith("ConfigError: expected one chdb:// folder a process")
    assert second == "ConfigError"
    assert third == "no error"


def test_a_relative_folder_is_below_the_current_one_with_its_parents_made(tmp_path: Path) -> None:
    run("open_('chdb://.formrelay/clickhouse').ping()", cwd=tmp_path)
    assert any((tmp_path / ".formrelay" / "clickhouse").iterdir())
    assert (tmp_path / ".formrelay" / "clickhouse.lock").is_file()


def test_what_was_written_is_there_for_the_next_process(tmp_path: Path) -> None:
    url = f"chdb://{tmp_path}/data"
    code = """
        client = open_(sys.argv[1])
        client.command("CREATE TABLE IF NOT EXISTS t (a UInt8) ENGINE = MergeTree ORDER BY a")
        client.insert("t", ("a",), [[1]])
        print(client.query("SELECT count() FROM t")[0][0])
    """
    assert [run(code, url), run(code, url)] == ["1", "2"]


@pytest.mark.parametrize("folder", ["{tmp}/file/data", "/proc/formrelay/data", "/proc"])
def test_a_folder_that_cannot_be_made_or_written_is_one_clear_line(
    folder: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can be written to") as caught:
        open_clickhouse(f"chdb://{folder.format(tmp=tmp_path)}", "events").ping()
    assert "\n" not in str(caught.value)
