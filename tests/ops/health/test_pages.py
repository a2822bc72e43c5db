"""The probes and the health on the port of a machine's workers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from formrelay.brokers import BrokerUnavailable
from formrelay.config import WorkerHttpSettings
from formrelay.core.errors import FormrelayError
from formrelay.ops.health import pages
from formrelay.ops.health.pages import HealthReader, add_health_pages, health, livez, readyz
from formrelay.ops.metrics.files import WorkerFiles
from formrelay.ops.metrics.pages import PAGES
from formrelay.ops.metrics.queues import QueueReader
from formrelay.ops.metrics.server import PortServer
from formrelay.ops.metrics.snapshot import ProcessState, Snapshot
from tests.ops.metrics.processes import Process, snapshot
from tests.support.waiting import wait_until


def process(what: str) -> Snapshot:
    """What a process says of itself now."""
    match what:
        case "stopping":
            return snapshot("2-a", state=ProcessState.STOPPING)
        case "stopped by a signal":
            return snapshot("3-a", monotonic=time.monotonic() - 25)
        case "stuck":
            return snapshot("4-a", stalled=25.0)
        case "cut off":
            return snapshot("5-a", stalled=25.0, problem="no answer")
    return snapshot("1-a")


@pytest.mark.parametrize(
    ("live", "status", "text"),
    [
        ((), 200, "ok\n"),
        (("well",), 200, "ok\n"),
        (("stopping",), 200, "ok\n"),
        (("cut off",), 200, "ok\n"),  # a restart helps no network
        (("well", "stuck"), 503, "hangs: host:4 (a consumer has not looked for jobs for 25s)\n"),
        (("stopped by a signal",), 503, "hangs: host:3 (its process runs, but has done nothing "),
    ],
)
def test_livez_fails_if_a_process_hangs(live: tuple[str, ...], status: int, text: str) -> None:
    found = livez(map(process, live))
    assert (found[0], found[1][: len(text)]) == (status, text)


@pytest.mark.parametrize(
    ("live", "broker", "status", "text"),
    [
        ((), "", 503, "no worker process is ready\n"),
        (("stopping",), "", 503, "all worker processes are stopping\n"),
        (("stopping", "well"), "", 200, "ok\n"),
        (("cut off",), "", 503, "no broker: no answer\n"),
        (("stuck",), "", 503, "hangs: a consumer has not looked for jobs for 25s\n"),
        (("stuck", "well"), "", 200, "ok\n"),
        (("well",), "no answer", 503, "no broker: no answer\n"),
    ],
)
def test_readyz_fails_while_no_process_takes_jobs(
    live: tuple[str, ...], broker: str, status: int, text: str
) -> None:
    assert readyz([*map(process, live)], broker_problem=broker) == (status, text)


class Reader(HealthReader):
    """Answers, or fails as told."""

    def __init__(self, found: dict[str, Any] | FormrelayError) -> None:
        self.found = found

    def get(self) -> dict[str, Any]:
        if isinstance(self.found, FormrelayError):
            raise self.found
        return self.found


def test_health_tells_other_machines_the_status_alone() -> None:
    found = {"status": "degraded", "workers": []}
    assert health([], Reader(found), is_local=True) == (200, found)
    assert health([], Reader(found), is_local=False) == (200, {"status": "degraded"})


def test_without_the_broker_health_tells_of_the_workers_of_this_machine() -> None:
    reader = Reader(BrokerUnavailable("it is away"))
    status, found = health([process("well"), process("cut off")], reader, is_local=True)
    assert (status, found["status"], found["queues"]) == (503, "down", None)
    assert [(each["name"], each["state"]) for each in found["workers"]] == [
        *(("host:1", "ok"), ("host:5", "no_broker"))
    ]
    assert health([], reader, is_local=False) == (503, {"status": "down"})


def test_concurrent_requests_share_one_reading_of_the_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    goes_on = threading.Event()

    def read(broker: Any) -> dict[str, Any]:
        asked.append(1)
        goes_on.wait(60)
        return {"status": "ok"}

    monkeypatch.setattr(pages, "worker_health", read)
    monkeypatch.setattr(pages, "_WAIT", 0.01)
    reader = HealthReader(lambda: None)  # type: ignore[arg-type, return-value]
    for _ in range(3):  # the broker hangs
        with pytest.raises(BrokerUnavailable):
            reader.get()
    monkeypatch.setattr(pages, "_WAIT", 60)
    goes_on.set()
    assert reader.get() == {"status": "ok"}
    assert reader.get() == {"status": "ok"}
    assert len(asked) == 1


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port that is served, with one worker process."""
    for path in ("/livez", "/readyz", "/api/v1/workers/health"):
        monkeypatch.setitem(PAGES, path, None)  # restored after the test
    monkeypatch.setattr(pages, "get_broker", lambda: None)
    add_health_pages()
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = int(probe.getsockname()[1])
    files, queues = WorkerFiles(tmp_path), QueueReader(lambda: None)
    queues.start = lambda: None  # type: ignore[method-assign]
    every = timedelta(milliseconds=10)
    server = PortServer(WorkerHttpSettings(port=port), files, queues, every=every)
    server.start()
    wait_until(lambda: server.serves)
    process = Process(WorkerFiles(tmp_path), "1-aa")
    yield port
    process.end()
    server.stop()


def test_the_port_serves_the_probes_and_tells_details_to_this_machine_alone(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "worker_health", lambda _: {"status": "ok", "workers": []})
    url = f"http://127.0.0.1:{port}"
    for path in ("livez", "readyz"):
        answer = requests.get(f"{url}/{path}", timeout=30)
        assert (answer.status_code, answer.text) == (200, "ok\n")
    path = f"{url}/api/v1/workers/health"
    assert requests.get(path, timeout=30).json() == {"status": "ok", "workers": []}
    # A page of another site, and a proxy that lets others in.
    for headers in ({"Host": "evil.example"}, {"X-Forwarded-For": "1.2.3.4"}):
        answer = requests.get(path, headers=headers, timeout=30)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
