"""Commands that work without any variable set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from formrelay.config import settings
from formrelay.ops.cli.app import app
from tests.support.command import run


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Words of each command and of each group of commands."""
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


COMMANDS = list(commands(typer.main.get_command(app)))
GROUPS = {words[:number] for words in COMMANDS for number in range(len(words))}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_works_for_every_command(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise AssertionError("help must not read the configuration")

    monkeypatch.setattr(settings, "_current", None)
    monkeypatch.setattr(settings, "_source", refuse)
    done = CliRunner().invoke(app, [*words, "--help"])
    assert (done.exit_code, done.exception) == (0, None)
    assert "Usage: " in done.stdout
    if words not in GROUPS:
        assert "Example: formrelay " in done.stdout


def test_config_lists_every_variable_and_reports_the_missing_broker(tmp_path: Path) -> None:
    env = {"API_URL": "https://api.example", "API_TOKEN": "hunter2"}
    done = run("config", cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert "https://api.example" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("formrelay: expected BROKER, REDIS_URL or RABBITMQ_URL to be set")
    done = run("config", "--json", cwd=tmp_path, env=env)
    found = {row["name"]: (row["value"], row["source"]) for row in json.loads(done.stdout)}
    assert found["BROKER"] == ("(not set)", "default")
    assert found["API_TOKEN"] == ("***", "environment")
    assert found["WORKER_CONCURRENCY"] == ("8", "default")


def test_config_lists_valid_values_and_reports_invalid_ones(tmp_path: Path) -> None:
    env = {"BROKER": "kafka", "EMAIL_QUEUE": "mails", "API_TIMEOUT_SECONDS": "soon"}
    done = run("config", "--json", cwd=tmp_path, env=env)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 2)
    found = {row["name"]: (row["value"], row["source"]) for row in json.loads(done.stdout)}
    assert found["BROKER"] == found["API_TIMEOUT_SECONDS"] == ("(invalid)", "environment")
    assert found["EMAIL_QUEUE"] == ("mails", "environment")


def test_config_warns_of_a_similar_name_in_a_shared_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BROKER=embedded\nREDIS_URI=redis://hunter2@h\n")
    done = run("config", cwd=tmp_path, env={})
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("formrelay: warning: REDIS_URI in the .env file")
    assert "write REDIS_URL if" in line
    assert "hunter2" not in done.stdout + done.stderr


def test_schema_and_env_example_need_no_variable(tmp_path: Path) -> None:
    assert '"webhook.send"' in run("schema", cwd=tmp_path, env={}).stdout
    assert "#REDIS_URL=" in run("config", "--example", cwd=tmp_path, env={}).stdout


def test_a_worker_names_all_missing_settings_at_once(tmp_path: Path) -> None:
    done = run("worker", cwd=tmp_path, env={})
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert [line.partition("expected ")[2].partition(" ")[0].strip(",") for line in lines] == [
        "BROKER",
        "API_URL",
        "CLICKHOUSE_URL",
    ]
    # Only of the queues that it takes.
    for words in (["webhooks"], ["--queue", "webhooks"]):
        assert len(run("worker", *words, cwd=tmp_path, env={}).stderr.splitlines()) == 1
    every = run("worker", "emails", "sheets", "events", "submissions", cwd=tmp_path, env={})
    assert len(every.stderr.splitlines()) == 5
    # Invalid variables too, once each.
    wrong = {"BROKER": "embedded", "API_URL": "nowhere", "WORKER_PROCESSES": "two"}
    done = run("worker", "submissions", "sheets", cwd=tmp_path, env=wrong)
    assert done.returncode == 2
    assert [name for name in ("API_URL", "WORKER_PROCESSES", "SHEETS") if name in done.stderr] == [
        "API_URL",
        "WORKER_PROCESSES",
        "SHEETS",
    ]
    assert len(done.stderr.splitlines()) == 3
    wrong = {"BROKER": "embedded", "SHEETS_API_URL": "http://sheets.example"}
    done = run("worker", "submissions", cwd=tmp_path, env=wrong)
    assert "expected API_URL for" in done.stderr


def test_reloading_ends_with_the_status_of_workers_that_cannot_start(tmp_path: Path) -> None:
    done = run("worker", "webhooks", "--reload", cwd=tmp_path, env={})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("formrelay: expected BROKER, REDIS_URL or RABBITMQ_URL to be set")
