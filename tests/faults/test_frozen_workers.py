"""A worker is frozen with a batch while another recovers its messages: none is lost."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.conftest import Site
from tests.support.brokers import BROKERS
from tests.support.waiting import wait_until

COUNT = 50


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A sink that accepts connections and answers only when the test wants it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("FORMRELAY_TEST_SINK", str(listener.getsockname()[1]))
        yield listener


@pytest.fixture(params=BROKERS)
def site(
    request: pytest.FixtureRequest, sink: socket.socket, unique: str, tmp_path: Path
) -> Iterator[Site]:
    url = request.getfixturevalue(request.param)
    if url.startswith("amqp"):
        url += "?heartbeat=1"  # RabbitMQ closes the connection of a frozen process
    site = Site(url, unique, tmp_path / "done")
    yield site
    site.close()


def test_a_batch_in_flight_survives_a_frozen_worker(site: Site, sink: socket.socket) -> None:
    collect = site.broker.actors["collect"]
    for number in range(COUNT):
        collect.send(number=number)
    frozen = site.start_worker()
    batch, _ = sink.accept()
    wait_until(lambda: len(batch.recv(4096, socket.MSG_PEEK).split()) == COUNT)
    # The recovered messages wait, because the queue is paused.
    site.broker.inspector.pause(site.queue)
    site.start_worker()
    frozen.send_signal(signal.SIGSTOP)
    wait_until(lambda: site.broker.counts(site.queue).waiting == COUNT)
    # The worker resumes, finds the sink closed, and settles its batch.
    batch.close()
    frozen.send_signal(signal.SIGCONT)
    wait_until(lambda: "away" in site.lines())
    frozen.send_signal(signal.SIGTERM)
    frozen.wait(timeout=20)
    threading.Thread(target=_answer, args=(sink,), daemon=True).start()
    site.broker.inspector.resume(site.queue)
    site.wait_for(range(COUNT))
    wait_until(site.is_empty)


def _answer(sink: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = sink.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"ok")
