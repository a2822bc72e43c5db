"""How many requests are under way at a time, and which do not count."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network

import pytest

from formrelay.core.later import run
from formrelay.core.loop import get_loop
from formrelay.sinks.http import Egress, transfers
from tests.support.waiting import wait_until


class Busy:
    """A receiver that knows how many requests it has in hand."""

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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield busy, f"http://127.0.0.1:{server.server_address[1]}"
    busy.gate.set()
    server.shutdown()
    server.server_close()
    thread.join()


def egress(limit: int) -> Egress:
    return Egress(
        timeout=timedelta(seconds=30),
        allow_http=True,
        allowed_private=[ip_network("127.0.0.0/8")],
        limit=limit,
    )


def send_all(sender: Egress, urls: list[str]) -> list[threading.Thread]:
    """A request to each, all at one time."""

    def send(url: str) -> None:
        assert run(sender.send("POST", url, {}, b"{}")).status == 204

    threads = [threading.Thread(target=send, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    return threads


def test_no_more_are_under_way_than_the_limit_and_none_is_forgotten(
    busy: tuple[Busy, str],
) -> None:
    receiver, url = busy
    for thread in send_all(egress(4), [url + "/"] * 60):
        thread.join(60)
    assert receiver.count == 60
    assert receiver.most == 4


def test_one_that_hangs_makes_room_after_a_second(busy: tuple[Busy, str]) -> None:
    receiver, url = busy
    sender = egress(2)
    hanging = send_all(sender, [url + "/hang"] * 2)
    started = time.monotonic()
    others = send_all(sender, [url + "/"] * 6)
    for thread in others:
        thread.join(60)
    assert 0.8 < time.monotonic() - started < 20
    assert receiver.count == 8
    assert all(thread.is_alive() for thread in hanging)
    receiver.gate.set()
    for thread in hanging:
        thread.join(60)
    # There is as much room as before, and no more.
    receiver.most, receiver.now = 0, 0
    receiver.gate.clear()
    for thread in send_all(sender, [url + "/"] * 10):
        thread.join(60)
    assert receiver.most == 2


def test_so_many_and_no_more_may_hang(
    busy: tuple[Busy, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "ASIDE_AFTER", 0.1)
    receiver, url = busy
    sender = egress(1)
    threads = send_all(sender, [url + "/hang"] * 15)
    driver = wait_until(lambda: sender._transfers._driver)

    def are_aside() -> bool:
        get_loop().wake()  # it looks once a second by itself
        return bool(driver._aside == 10)  # ten times the limit

    wait_until(are_aside)
    assert wait_until(lambda: receiver.count == 10)
    assert len(driver._active) == 10
    receiver.gate.set()
    for thread in threads:
        thread.join(60)
    assert receiver.count == 15
