"""What a worker says it is connected to when it starts."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from formrelay.core.errors import SinkError
from formrelay.ops.reachability import Reach, connect_to, reach
from tests.support.command import Program, clean_environment, run_python

CODE = """
from formrelay.actors import declare_actors
from formrelay.ops.worker.banner import announce
declare_actors()
announce(['webhooks', 'events'], processes=2, threads=8, problems={'ClickHouse': 'went home'})
"""
ANSWERS = {b"EHLO": b"250 mail.example\r\n", b"QUIT": b"221 bye\r\n"}


@pytest.fixture
def port() -> Iterator[int]:
    """Port of a server that greets as an SMTP server and knows EHLO; for the API, it is open."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def _serve(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            with server.accept()[0] as client, suppress(OSError):
                client.sendall(b"220 mail.example\r\n")
                while line := client.recv(1000):
                    client.sendall(ANSWERS.get(line[:4].upper(), b"500 what?\r\n"))


@pytest.fixture
def variables(port: int) -> dict[str, str]:
    return {
        "API_URL": f"http://127.0.0.1:{port}/api",
        "API_TOKEN": "hush-token",
        "CLICKHOUSE_URL": "clickhouse://ann:hush@events.example:9000/db",
        "SMTP_URL": f"smtp+none://ann:hush@127.0.0.1:{port}",
        "EMAIL_FROM": "ann@example.com",
        "SHEETS_OAUTH_CLIENT_ID": "hush-id",
        "SHEETS_OAUTH_CLIENT_SECRET": "hush-secret",
        "SHEETS_API_URL": "http://127.0.0.1:1",
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


@pytest.mark.redis
def test_a_terminal_shows_a_line_for_each_system_without_secrets(
    tmp_path: Path, redis_url: str, variables: dict[str, str]
) -> None:
    shown = on_terminal(tmp_path, {"REDIS_URL": redis_url, **variables})
    first, *lines = shown.splitlines()
    assert first == "formrelay worker: webhooks, events; processes: 2, threads of each: 8"
    took = re.compile(r"reachable in <?\d+ ms")
    texts = [" ".join(took.sub("reachable in N ms", line).split()) for line in lines]
    smtp = variables["SMTP_URL"].replace("ann:hush", "***")
    assert texts == [
        f"broker reachable in N ms {redis_url}",
        "state store reachable in N ms in the Redis of the broker",
        "ClickHouse unreachable clickhouse://***@events.example:9000/db",
        "went home",
        f"API reachable in N ms {variables['API_URL']}",
        f"SMTP reachable in N ms {smtp}",
        "Google unreachable http://127.0.0.1:1",
        "Connection refused",
    ]
    assert "hush" not in shown
    assert max(map(len, lines)) <= 80


def test_a_log_gets_one_line_of_json(tmp_path: Path, variables: dict[str, str]) -> None:
    """An outage of the broker at this moment is told; the workers find it themselves."""
    variables = {"RABBITMQ_URL": "amqp://ann:hush@127.0.0.1:1/site", **variables}
    done = run_python("-c", CODE, cwd=tmp_path, env=clean_environment(**variables))
    assert done.returncode == 0
    line = json.loads(done.stderr.splitlines()[-1])
    assert line["msg"] == "starting workers"
    assert line["broker"].startswith("unreachable: amqp://***@127.0.0.1:1/site: ")
    assert line["stateStore"].startswith("not configured: ")
    assert line["clickhouse"].endswith(": went home")
    assert re.match(r"reachable in <?\d+ ms: http", line["api"])
    assert line["queues"] == ["webhooks", "events"]
    assert "hush" not in done.stderr


def test_a_system_that_does_not_answer_in_time_is_unreachable_and_delays_nothing() -> None:
    never = threading.Event()

    def fail() -> None:
        raise SinkError("it is closed")

    found = reach({"slow": never.wait, "closed": fail, "open": lambda: None}, limit=0.2)
    never.set()
    assert list(found) == ["slow", "closed", "open"]
    assert found["slow"] == Reach(None, "no answer within 0.2 s")
    assert (str(found["closed"]), found["closed"].problem) == ("unreachable", "it is closed")
    assert str(found["open"]).startswith("reachable in ")


def test_an_unexpected_error_does_not_quote_its_text() -> None:
    def fail() -> None:
        raise ValueError("hush")

    assert reach({"odd": fail})["odd"].problem == "ValueError"


def test_a_server_without_tls_is_a_problem(port: int) -> None:
    problem = reach({"api": lambda: connect_to(f"https://127.0.0.1:{port}")})["api"].problem
    assert problem.startswith("TLS failed: ")
