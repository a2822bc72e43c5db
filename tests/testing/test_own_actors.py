"""docs/own-actors.md: the documented commands run the actor, show its dead letter and replay it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.command import clean_environment, run_python, start_python
from tests.support.waiting import wait_until
from tests.testing.test_documents import write_project

DOCUMENT = "own-actors.md"


def commands() -> list[str]:
    """The commands of the document, in order, without comments."""
    text = (ROOT / "docs" / DOCUMENT).read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    return [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]


def command(beginning: str) -> list[str]:
    """Arguments of the first documented command that begins so."""
    line = next(line for line in commands() if line.startswith(beginning))
    return ["-m", *line.split()]


@contextmanager
def worker(folder: Path, env: dict[str, str]) -> Iterator[Path]:
    """Run the documented worker; yields the file with its output."""
    output = folder / "worker.out"
    arguments = command("formrelay worker")
    process = start_python(*arguments, cwd=folder, env=env, log=output, may_exec=True)
    try:
        yield output
    finally:
        process.terminate()
        process.wait(60)


def run(arguments: list[str], folder: Path, env: dict[str, str]) -> str:
    done = run_python(*arguments, cwd=folder, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_documented_commands_run_show_and_replay_jobs(redis_url: str, tmp_path: Path) -> None:
    write_project(DOCUMENT, tmp_path)
    actors = tmp_path / "myapp" / "actors.py"
    actors.write_text(actors.read_text().replace("minutes=1", "milliseconds=50"))
    env = clean_environment(REDIS_URL=redis_url, PYTHONUNBUFFERED="1")
    listing = [*command("formrelay dlq list"), "--json"]
    run(["send.py"], tmp_path, env)
    with worker(tmp_path, env) as output:
        wait_until(lambda: "sent the invoice of o-1" in output.read_text())
        # Two jobs: the second is dead-lettered after its five attempts.
        wait_until(lambda: re.search(r'"outcome": ?"dead"', output.read_text()))
    assert "invoices" in run(command("formrelay queues"), tmp_path, env)
    (letter,) = json.loads(run(listing, tmp_path, env))
    assert letter["id"]
    dry_run, replay = (["-m", *line.split()] for line in commands() if " replay " in line)
    run(dry_run, tmp_path, env)
    assert len(json.loads(run(listing, tmp_path, env))) == 1
    run(replay, tmp_path, env)
    assert json.loads(run(listing, tmp_path, env)) == []
