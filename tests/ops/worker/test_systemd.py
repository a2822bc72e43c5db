"""systemd hears when a worker is ready, works, hangs and stops."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from formrelay.config import SystemdSettings
from formrelay.core.exit_reason import set_exit_reason
from formrelay.ops.worker import systemd as systemd_module
from formrelay.ops.worker.systemd import SystemdNotify
from formrelay.testing import MemoryBroker
from tests.ops.metrics.processes import snapshot
from tests.support.harness import Harness
from tests.support.waiting import wait_until

LIMIT_USEC = 500_000


class Systemd:
    """The socket on which systemd hears of a unit."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)
        self.heard: list[str] = []

    def listen(self) -> list[str]:
        """Return all lines that were sent so far."""
        while True:
            try:
                self.heard += self.socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self.heard


@pytest.fixture(params=["a path", "an abstract name"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "a path":
        return str(tmp_path / "notify")
    return f"@formrelay-test-{tmp_path.name}-{id(tmp_path)}"


@pytest.fixture
def systemd(address: str) -> Iterator[Systemd]:
    systemd = Systemd(address)
    yield systemd
    systemd.socket.close()


@pytest.fixture
def harness() -> Iterator[Harness]:
    harness = Harness(MemoryBroker(), "default")
    harness.actor(lambda: None)
    yield harness
    harness.stop()


def notify_of(harness: Harness, address: str, watchdog: int | None = LIMIT_USEC) -> SystemdNotify:
    settings = SystemdSettings(notify_socket=address, watchdog_usec=watchdog)
    notify = SystemdNotify(settings)
    harness.broker.add_middleware(notify)
    return notify


def test_a_worker_is_ready_works_and_stops(
    harness: Harness, address: str, systemd: Systemd
) -> None:
    notify_of(harness, address)
    harness.start()
    wait_until(lambda: "WATCHDOG=1" in systemd.listen())
    assert systemd.heard[0] == "READY=1"
    harness.stop()
    assert "STOPPING=1" in systemd.listen()


def test_a_recycled_worker_does_not_stop_its_unit(
    harness: Harness, address: str, systemd: Systemd
) -> None:
    notify_of(harness, address)
    harness.start()
    set_exit_reason("recycled")
    try:
        harness.stop()
    finally:
        set_exit_reason(None)
    assert "READY=1" in systemd.listen()
    assert "STOPPING=1" not in systemd.heard


def test_a_worker_with_a_hanging_consumer_triggers_the_watchdog(
    harness: Harness, address: str, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    notify_of(harness, address)
    harness.start()
    (found,) = wait_until(lambda: list(harness.broker.consumers))
    consumer: Any = found
    hangs, goes_on = Event(), Event()

    def receive(timeout: float) -> None:
        hangs.set()
        goes_on.wait(60)

    monkeypatch.setattr(consumer, "receive", receive)
    assert hangs.wait(60)
    wait_until(lambda: "WATCHDOG=trigger" in systemd.listen())
    assert consumer.stalled > LIMIT_USEC / 1e6
    monkeypatch.setattr(type(consumer), "problem", "the broker is away")
    systemd.listen().clear()
    wait_until(lambda: "WATCHDOG=1" in systemd.listen())  # a restart helps no network
    monkeypatch.undo()
    goes_on.set()
    systemd.listen().clear()
    wait_until(lambda: "WATCHDOG=1" in systemd.listen())


def test_a_process_that_hangs_as_a_whole_is_reported_by_its_siblings(
    harness: Harness, address: str, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as sibling:
        at = time.monotonic() - 30
        hangs = {"host:2": snapshot(pid=sibling.pid, monotonic=at)}
        monkeypatch.setattr(systemd_module, "local_workers", lambda: hangs)
        notify_of(harness, address)
        harness.start()
        wait_until(lambda: "WATCHDOG=1" in systemd.listen())  # of another command
        monkeypatch.setattr(os, "getppid", os.getpid)
        wait_until(lambda: "WATCHDOG=trigger" in systemd.listen())
        hangs.clear()
        systemd.listen().clear()
        wait_until(lambda: "WATCHDOG=1" in systemd.listen())


def test_without_a_watchdog_nothing_is_sent_while_it_works(
    harness: Harness, address: str, systemd: Systemd
) -> None:
    notify = notify_of(harness, address, watchdog=None)
    harness.start()
    wait_until(lambda: "READY=1" in systemd.listen())
    notify._ping()
    assert "WATCHDOG=1" not in systemd.listen()


def test_outside_systemd_nothing_is_sent(harness: Harness) -> None:
    notify_of(harness, "", watchdog=None)
    harness.start()
    harness.stop()


def test_a_socket_that_is_gone_stops_no_worker(
    harness: Harness, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notify_of(harness, str(tmp_path / "gone"))
    harness.start()
    wait_until(lambda: "cannot notify systemd" in caplog.text)
