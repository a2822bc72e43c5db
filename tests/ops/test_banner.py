"""What a worker says it is connected to when it starts."""

from __future__ import annotations

import json
import os
import pty
from contextlib import suppress
from pathlib import Path

from tests.support.command import Program, clean_environment, run_python

CODE = """
from formrelay.actors import declare_actors
from formrelay.ops.banner import announce
declare_actors()
announce(['webhooks', 'events'], processes=2, threads=8, answers={'clickhouse': False})
"""
VARIABLES = {
    "API_URL": "https://api.example",
    "API_TOKEN": "hush-token",
    "CLICKHOUSE_URL": "clickhouse://ann:hush@events.example:9000/db",
    "SMTP_URL": "smtp://ann:hush@mail.example:587",
    "EMAIL_FROM": "ann@example.com",
}


def on_terminal(folder: Path, variables: dict[str, str]) -> str:
    """What is shown on a terminal."""
    ours, other = pty.openpty()
    program = Program(("-c", CODE), folder, clean_environment(**variables), [other] * 3)
    os.close(other)
    shown = b""
    with suppress(OSError):  # the program has closed the terminal
        while piece := os.read(ours, 65_536):
            shown += piece
    os.close(ours)
    assert program.wait(60) == 0
    return shown.decode()


def test_a_terminal_shows_a_line_for_each_system_without_secrets(
    tmp_path: Path, redis_url: str
) -> None:
    shown = on_terminal(tmp_path, {"REDIS_URL": redis_url, **VARIABLES})
    first, *lines = shown.splitlines()
    assert first == "formrelay worker: webhooks, events; processes: 2, threads of each: 8"
    assert [line.split("  ")[1] for line in lines] == [
        *("broker", "state store", "ClickHouse", "API", "SMTP", "Google"),
    ]
    assert lines[0].split() == ["broker", "ok", redis_url]
    assert "ok" in lines[1]
    assert lines[2].split() == [
        *("ClickHouse", "unavailable", "clickhouse://***@events.example:9000/db"),
    ]
    assert lines[3].split() == ["API", "configured", "https://api.example"]
    assert lines[4].split() == ["SMTP", "configured", "smtp://***@mail.example:587"]
    assert "not configured" in lines[5]
    assert "hush" not in shown
    assert max(map(len, lines)) <= 80


def test_a_log_gets_one_line_of_json(tmp_path: Path) -> None:
    variables = {"RABBITMQ_URL": "amqp://ann:hush@mq.example/site", **VARIABLES}
    done = run_python("-c", CODE, cwd=tmp_path, env=clean_environment(**variables))
    line = json.loads(done.stderr)
    assert line["message"] == "starting workers"
    assert line["broker"] == "ok: amqp://***@mq.example/site"
    assert line["state_store"].startswith("not configured: ")
    assert line["clickhouse"].startswith("unavailable: ")
    assert line["queues"] == ["webhooks", "events"]
    assert "hush" not in done.stderr
