"""Wrong input and configuration: an error of one line and an exit status, no traceback."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.command import run

NOWHERE = "127.0.0.1:1"  # nothing listens on port 1


@pytest.mark.parametrize(
    ("env", "status", "expected"),
    [
        ({}, 2, "expected BROKER, REDIS_URL or RABBITMQ_URL to be set, got none"),
        ({"BROKER": "kafka"}, 2, "expected BROKER to be 'redis', 'rabbitmq' or 'embedded'"),
        ({"REDIS_URL": "http://x"}, 2, "expected REDIS_URL to be a URL that starts with redis://"),
        ({"RABBITMQ_URL": "redis://x"}, 2, "expected RABBITMQ_URL to be a URL that starts with"),
        ({"REDIS_URL": f"redis://{NOWHERE}"}, 1, f"expected Redis at {NOWHERE} to answer"),
        ({"RABBITMQ_URL": f"amqp://{NOWHERE}"}, 1, f"expected RabbitMQ at {NOWHERE} to answer"),
        # Even root cannot create a folder in /proc.
        (
            {"BROKER": "embedded", "EMBEDDED_DATA_DIR": "/proc/formrelay"},
            1,
            "expected to write in the data folder /proc/formrelay",
        ),
    ],
)
@pytest.mark.parametrize("command", [["queues"], ["worker", "--queue", "webhooks"]], ids=" ".join)
def test_a_wrong_or_unreachable_broker_is_one_line(
    tmp_path: Path, command: list[str], env: dict[str, str], status: int, expected: str
) -> None:
    done = run(*command, cwd=tmp_path, env=env)
    (line,) = done.stderr.splitlines()
    assert line.startswith("formrelay: ")
    assert expected in line
    assert done.returncode == status


def test_the_dramatiq_command_prints_the_same_error(tmp_path: Path) -> None:
    env = {"REDIS_URL": f"redis://{NOWHERE}"}
    arguments = ("formrelay.worker", "--processes", "1")
    done = run(*arguments, program="dramatiq", cwd=tmp_path, env=env)
    assert f"expected Redis at {NOWHERE} to answer" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


def test_one_error_names_every_wrong_variable(tmp_path: Path) -> None:
    env = {"BROKER": "embedded", "WORKER_CONCURRENCY": "many", "HEARTBEAT_TIMEOUT": "-1"}
    done = run("config", cwd=tmp_path, env=env)
    first, second = sorted(done.stderr.splitlines())
    assert "HEARTBEAT_TIMEOUT" in first
    assert second == (
        "formrelay: expected WORKER_CONCURRENCY to be a whole number of at least 1, got 'many'"
    )
    assert done.returncode == 2


@pytest.mark.rabbitmq
def test_a_wrong_rabbitmq_password_is_one_line_without_it(
    tmp_path: Path, rabbitmq_url: str
) -> None:
    parts = urlsplit(rabbitmq_url)
    url = f"amqp://guest:a-wrong-one@{parts.hostname}:{parts.port}{parts.path}"
    done = run("queues", cwd=tmp_path, env={"RABBITMQ_URL": url})
    (line,) = done.stderr.splitlines()
    assert "accept the user and password of RABBITMQ_URL, it refused them" in line
    assert "a-wrong-one" not in done.stderr
    assert done.returncode == 1


@pytest.mark.redis
@pytest.mark.clickhouse
@pytest.mark.parametrize("program", ["formrelay", "dramatiq"])
def test_a_wrong_clickhouse_password_stops_the_worker_at_its_start(
    tmp_path: Path, redis_url: str, clickhouse_url: str, program: str
) -> None:
    env = {
        "REDIS_URL": redis_url,
        "CLICKHOUSE_URL": clickhouse_url,
        "CLICKHOUSE_USER": "relay",
        "CLICKHOUSE_PASSWORD": "a-wrong-one",
        "API_URL": "http://127.0.0.1:1",
    }
    command = ["worker"] if program == "formrelay" else ["formrelay.worker", "--processes", "1"]
    done = run(*command, program=program, cwd=tmp_path, env=env)
    (line,) = [line for line in done.stderr.splitlines() if "formrelay: " in line]
    assert "check CLICKHOUSE_USER and CLICKHOUSE_PASSWORD" in line
    assert line.startswith("{" if program == "dramatiq" else "formrelay: ")
    assert "a-wrong-one" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        env = {"BROKER": "embedded", "EMBEDDED_PORT": str(port)}
        done = run("queues", cwd=tmp_path, env=env)
    (line,) = done.stderr.splitlines()
    assert f"expected port {port} on 127.0.0.1 to be free, it is in use" in line
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nobody", "{}"], "expected a queue (emails, "),
        ([' {"secret": 1}'], "a queue or an actor first, got JSON: formrelay send QUEUE PAYLOAD"),
        (["record_events", "{"], "expected the payload as JSON"),
        (["record_events", '{"type": "x"}'], "payload.0.formId: field required"),
        (["record_events", "{}", "--metadata", "5"], "record_events: "),
    ],
)
def test_an_invalid_job_is_an_error_of_one_line_and_is_not_sent(
    tmp_path: Path, arguments: list[str], expected: str
) -> None:
    env = {"BROKER": "embedded"}
    done = run("send", *arguments, cwd=tmp_path, env=env)
    (line,) = done.stderr.splitlines()
    assert expected in line
    assert done.returncode == 2
    queues = run("queues", "--json", cwd=tmp_path, env=env)
    assert '"waiting": 1' not in queues.stdout


@pytest.mark.parametrize("scheme", ["chdb", "CHDB"])
def test_a_second_process_cannot_use_an_embedded_clickhouse(tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}://{tmp_path}/events"
    env = {"BROKER": "embedded", "API_URL": "http://127.0.0.1:1", "CLICKHOUSE_URL": url}
    done = run("worker", "--processes", "2", cwd=tmp_path, env=env)
    (line,) = done.stderr.splitlines()
    assert "only one process at a time can open chdb://" in line
    assert done.returncode == 2


@pytest.mark.parametrize("program", ["formrelay", "dramatiq"])
def test_a_worker_of_submissions_without_an_api_does_not_start(
    tmp_path: Path, program: str
) -> None:
    command = ["worker"] if program == "formrelay" else ["formrelay.worker", "--processes", "1"]
    done = run(*command, program=program, cwd=tmp_path, env={"BROKER": "embedded"})
    assert "expected API_URL for the queue of submissions, got none" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize(
    "command",
    [
        ["worker", "--queue", "nope"],
        ["dlq", "list", "--queue", "nope"],
    ],
)
def test_the_error_for_an_unknown_queue_lists_the_queues(
    tmp_path: Path, command: list[str]
) -> None:
    done = run(*command, cwd=tmp_path, env={"BROKER": "embedded"})
    queues = "emails, events, partials, sheets, submissions, webhooks"
    assert f"expected a queue ({queues}), got 'nope'" in done.stderr
    assert done.returncode == 2
