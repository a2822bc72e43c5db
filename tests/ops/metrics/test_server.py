"""One process of a machine serves the port, and another takes over when it ends."""

from __future__ import annotations

import logging
import os
import signal
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.error import HTTPError

import pytest

from formrelay.config import WorkerHttpSettings
from formrelay.ops.metrics import pages, server
from formrelay.ops.metrics.files import WorkerFiles
from formrelay.ops.metrics.pages import Request, Response
from formrelay.ops.metrics.queues import QueueReader
from formrelay.ops.metrics.server import PortServer
from tests.ops.metrics.processes import Process, jobs
from tests.support.waiting import wait_until

SOON = timedelta(milliseconds=10)


def no_broker() -> None:
    raise AssertionError("no test of this file asks the broker")


@pytest.fixture
def port() -> int:
    """A free port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    port: int, folder: Path, *, host: str = "127.0.0.1", starts: bool = True
) -> Iterator[PortServer]:
    files, queues = WorkerFiles(folder), QueueReader(no_broker)
    queues.start = lambda: None  # type: ignore[method-assign]
    found = PortServer(WorkerHttpSettings(host=host, port=port), files, queues, every=SOON)
    if starts:
        found.start()
    try:
        yield found
    finally:
        found.stop()


def get(port: int, path: str = "/metrics", **options: object) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", **options)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def raw(port: int, data: bytes) -> bytes:
    """Send bytes; return everything that is answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(data)
        found = b""
        while part := connection.recv(65_536):
            found += part
        return found


def test_the_page_has_the_counts_of_all_processes(port: int, tmp_path: Path) -> None:
    with serving(port, tmp_path) as one:
        wait_until(lambda: one.serves)
        others = WorkerFiles(tmp_path)
        processes = [Process(others, f"{n}-aa", {"jobs": {("q", "a"): jobs(n)}}) for n in (1, 2)]
        status, page = get(port)
        assert status == 200
        assert 'formrelay_jobs_total{actor="a",outcome="done",queue="q"} 3.0' in page
        assert "formrelay_workers 2.0" in page
        for process in processes:
            process.end()


def test_another_process_takes_over_the_port(port: int, tmp_path: Path) -> None:
    with serving(port, tmp_path) as one:
        wait_until(lambda: one.serves)
        with serving(port, tmp_path) as two:
            assert get(port)[0] == 200
            assert not two.serves
            one.stop()
            wait_until(lambda: two.serves)
            assert get(port)[0] == 200


def test_a_foreign_program_on_the_port_is_logged_once_and_waited_for(
    port: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with (
        closing(socket.create_server(("127.0.0.1", port))),
        serving(port, tmp_path, starts=False) as one,
    ):
        for _ in range(3):
            one._take()
        assert not one.serves
    (line,) = caplog.records
    assert (line.levelname, vars(line)["port"]) == ("ERROR", port)
    assert line.message == "cannot listen on WORKER_HTTP_PORT, retrying"
    assert vars(line)["error_message"] == "Address already in use"
    with serving(port, tmp_path) as two:
        wait_until(lambda: two.serves)


def test_a_host_that_does_not_exist_is_named_as_such(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(1, tmp_path, host="nosuch.invalid", starts=False) as one:
        one._take()
    (line,) = caplog.records
    assert vars(line)["host"] == "nosuch.invalid"
    assert "Unknown error" not in vars(line)["error_message"]
    assert "ame" in vars(line)["error_message"]  # "Name or service not known", or the like


def test_workers_with_another_folder_are_told_apart(
    port: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(port, tmp_path / "one") as one:
        wait_until(lambda: one.serves)
        with serving(port, tmp_path / "two", starts=False) as two:
            two._take()
    (line,) = caplog.records
    assert "set the same WORKER_HTTP_DIR for all workers" in line.message
    assert vars(line)["error_message"] == f"workers with the folder {tmp_path / 'one'} serve it"


def test_a_process_that_holds_the_port_and_hangs_is_logged_once(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "_PROBE_EVERY", 0.0)
    monkeypatch.setattr(server, "_PROBE_SECONDS", 0.05)
    hanging = WorkerFiles(tmp_path)
    assert hanging.take_port()
    with (
        closing(socket.create_server(("127.0.0.1", port))),  # accepts, and never answers
        serving(port, tmp_path, starts=False) as one,
    ):
        for _ in range(4):
            one._take()
    hanging.leave_port()
    (line,) = caplog.records
    assert line.message == (
        "the worker process that serves WORKER_HTTP_PORT does not answer: it hangs"
    )


def test_a_forked_child_does_not_keep_the_port(port: int, tmp_path: Path) -> None:
    with serving(port, tmp_path) as one:
        wait_until(lambda: one.serves)
        is_ready, ready = os.pipe()
        child = os.fork()
        if not child:
            os.write(ready, b"1")
            signal.pause()
        try:
            os.read(is_ready, 1)
            one.stop()
            with closing(socket.create_server(("127.0.0.1", port))):
                pass
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(is_ready)
            os.close(ready)


def test_wrong_requests_are_refused(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_HEAD_SECONDS", 0.3)
    with serving(port, tmp_path) as one:
        wait_until(lambda: one.serves)
        assert get(port, "/nothing")[0] == 404
        assert get(port, "/metrics", method="POST", data=b"x")[0] == 405
        assert get(port, "/metrics?name=x")[0] == 200
        assert raw(port, b"GET /\r\n\r\n").startswith(b"HTTP/1.1 400")
        head = raw(port, b"HEAD /metrics HTTP/1.0\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert head.endswith(b"\r\n\r\n")
        # Not a whole head in time, and too long a head: closed without an answer.
        assert raw(port, b"GET /metrics HTTP/1.1\r\n") == b""
        assert raw(port, b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 8_200) == b""
        assert get(port)[0] == 200


def test_idle_connections_use_no_more_than_a_few_threads(port: int, tmp_path: Path) -> None:
    with serving(port, tmp_path) as one:
        wait_until(lambda: one.serves)
        address = ("127.0.0.1", port)
        idle = [socket.create_connection(address) for _ in range(server._MAX_REQUESTS)]
        with socket.create_connection(address, timeout=30) as surplus:
            assert surplus.recv(1) == b""  # closed at once
        assert raw_status(port) == 0
        for connection in idle:
            connection.close()
        wait_until(lambda: raw_status(port) == 200)


def raw_status(port: int) -> int:
    try:
        return get(port)[0]
    except OSError:  # closed: too many connections
        return 0


def test_a_page_that_fails_answers_500_without_details(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Request) -> Response:
        raise ValueError("jane@example.com")

    monkeypatch.setitem(pages.PAGES, "/fails", fails)
    with serving(port, tmp_path) as one:
        wait_until(lambda: one.serves)
        status, text = get(port, "/fails")
    assert status == 500
    assert "jane" not in text


def test_ipv6_addresses_work(tmp_path: Path) -> None:
    try:
        with closing(socket.create_server(("::1", 0), family=socket.AF_INET6)) as probe:
            port = int(probe.getsockname()[1])
    except OSError:
        pytest.skip("this machine has no IPv6")
    settings = WorkerHttpSettings(port=port, host="::1")
    queues = QueueReader(no_broker)
    queues.start = lambda: None  # type: ignore[method-assign]
    one = PortServer(settings, WorkerFiles(tmp_path), queues, every=SOON)
    one.start()
    wait_until(lambda: one.serves)
    with urllib.request.urlopen(f"http://[::1]:{port}/metrics", timeout=30) as answer:
        assert answer.status == 200
    one.stop()
