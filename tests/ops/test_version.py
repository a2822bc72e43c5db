"""``formrelay version`` and shell completion."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from formrelay import __version__
from tests.ops.shell import Shell
from tests.support.command import clean_environment, run, run_python


def test_versions_of_packages_and_servers_are_printed(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    found = shell.json("version")
    assert found["formrelay"] == __version__
    assert found["python"] == platform.python_version()
    assert found["dramatiq"] == metadata.version("dramatiq")
    assert found["broker"].startswith(("Valkey ", "Redis "))
    assert "store" not in found  # the same server
    assert "broker" not in shell.json("version", "--offline")


def test_versions_need_no_broker(tmp_path: Path) -> None:
    printed = run("version", cwd=tmp_path, env={}).stdout.splitlines()
    assert printed[1].split() == ["formrelay", __version__]
    done = run("version", "--json", cwd=tmp_path, env={"REDIS_URL": "redis://127.0.0.1:1"})
    assert done.returncode == 0
    assert "broker" not in json.loads(done.stdout)
    assert "note: expected Redis at 127.0.0.1:1 to answer" in done.stderr


# -- completion ------------------------------------------------------------------------------


MAIN = "import sys; sys.argv[0] = 'formrelay'; from formrelay.ops.cli import main; main()"


def completion(tmp_path: Path, *command: str, **variables: str) -> str:
    """Run the command as a shell does for a completion, beside an embedded broker."""
    env = clean_environment(BROKER="embedded", **variables)
    done = run_python(*command, cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.iterdir())  # no embedded server was started
    return done.stdout


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("formrelay hea", ["health"]),
        ("formrelay webhooks endpoints dis", ["disable"]),
        ("formrelay send --dr", ["--dry-run"]),
    ],
)
def test_completion_prints_the_names_alone_and_starts_no_broker(
    tmp_path: Path, words: str, names: list[str]
) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    printed = completion(tmp_path, "-c", MAIN, _FORMRELAY_COMPLETE="complete_bash", **asked)
    assert printed.split() == names


def test_the_completion_script_is_for_the_command_formrelay(tmp_path: Path) -> None:
    done = subprocess.run(  # the shell is found among the parents of the process
        ["bash", "-c", f"{sys.executable} -m formrelay --show-completion; exit $?"],
        cwd=tmp_path,
        env=clean_environment(BROKER="embedded"),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("_formrelay_completion() {\n")
    assert done.stdout.endswith("complete -o default -F _formrelay_completion formrelay\n")
    assert not list(tmp_path.iterdir())
