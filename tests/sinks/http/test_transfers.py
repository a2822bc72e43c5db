"""Concurrent requests in one event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network

import pytest

from formrelay.sinks.http import Egress
from tests.support.http_server import running
from tests.support.loop import run
from tests.support.waiting import wait_until


class Busy:
    """A receiver that counts its concurrent requests."""

    def __init__(self) -> None:
        self.now = self.most = self.count = 0
        self.gate = threading.Event()
        self.seconds = 0.05
        self._lock = threading.Lock()

    def take(self, path: str) -> None:
        with self._lock:
            self.now += 1
            self.count += 1
            self.most = max(self.most, self.now)
        if path == "/hang":
            self.gate.wait(30)
        else:
            self.gate.wait(self.seconds)
        with self._lock:
            self.now -= 1


@pytest.fixture
def busy() -> Iterator[tuple[Busy, str]]:
    busy = Busy()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            busy.take(self.path)
            self.send_response(204)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    with running(Server(("127.0.0.1", 0), Handler)) as port:
        yield busy, f"http://127.0.0.1:{port}"
        busy.gate.set()


def egress(concurrency: int) -> Egress:
    return Egress(
        timeout=timedelta(seconds=30),
        allow_http=True,
        allowed_private=[ip_network("127.0.0.0/8")],
        concurrency=concurrency,
    )


async def send_all(sender: Egress, urls: list[str]) -> list[int]:
    """Send a request to each URL at the same time; returns the statuses."""
    sent = [sender.send("POST", url, {}, b"{}") for url in urls]
    return [response.status for response in await asyncio.gather(*sent)]


def test_many_requests_run_at_the_same_time(busy: tuple[Busy, str]) -> None:
    receiver, url = busy
    receiver.seconds = 0.3
    started = time.monotonic()
    assert run(send_all(egress(4), [url + "/"] * 60)) == [204] * 60
    assert time.monotonic() - started < 10
    assert receiver.most > 20


def test_a_cancelled_request_ends_at_once_and_frees_its_handle(busy: tuple[Busy, str]) -> None:
    receiver, url = busy
    sender = egress(2)

    async def cancel() -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await sender.send("POST", url + "/hang", {}, b"{}")
            assert await send_all(sender, [url + "/"]) == [204]

    started = time.monotonic()
    run(cancel())
    assert time.monotonic() - started < 30
    assert receiver.count == 6
    (driver,) = sender._transfers._drivers.values()
    assert len(driver._free) == 1
    assert not driver._active
    wait_until(lambda: not driver._watched)


def test_each_event_loop_has_a_driver_until_it_is_closed(busy: tuple[Busy, str]) -> None:
    _, url = busy
    sender = egress(2)
    for _ in range(3):
        assert asyncio.run(send_all(sender, [url + "/"])) == [204]
    assert run(send_all(sender, [url + "/"] * 2)) == [204, 204]
    assert len(sender._transfers._drivers) == 1
