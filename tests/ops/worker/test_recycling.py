"""A worker process is recycled after many jobs or when it needs much memory."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from formrelay.brokers.errors import BrokerUnavailable
from formrelay.config import RecyclingSettings, SystemdSettings
from formrelay.core.exit_reason import exit_reason, set_exit_reason
from formrelay.ops.worker import recycling, signals, turns
from formrelay.ops.worker.recycling import Recycling, ping
from formrelay.ops.worker.signals import StopSignals
from formrelay.testing import MemoryBroker
from tests.ops.shell import Shell
from tests.support.harness import Harness
from tests.support.waiting import wait_until

MEGABYTE = 1024 * 1024


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The calls of Dramatiq's signal handler, in a process that Dramatiq seems to have started."""
    told: list[int] = []
    monkeypatch.setattr(signals, "_installed", StopSignals(lambda number, _: told.append(number)))
    restart = SimpleNamespace(prepare=lambda held: None)
    monkeypatch.setattr(recycling, "find_restart", lambda: restart)
    yield told
    set_exit_reason(None)
    turns.end_turn()


@pytest.fixture
def harness() -> Iterator[Harness]:
    harness = Harness(MemoryBroker(), "default")
    yield harness
    harness.stop()


def recycle(harness: Harness, *, min_age: float = 0, **limits: int) -> None:
    harness.broker.add_middleware(Recycling(RecyclingSettings(**limits), min_age=min_age))


class Draining:
    """A worker of two threads with one running job, which has run another job, its last.

    Attributes:
        may_end: set to end the running job.
        ran: the jobs that began.
    """

    def __init__(self, harness: Harness) -> None:
        self.may_end, self.ran = Event(), list[str]()
        self.actor = harness.actor(self._work)
        recycle(harness, max_jobs=1)
        self.actor.send("long")
        harness.start(threads=2)
        wait_until(lambda: self.ran)
        self.actor.send("quick")
        wait_until(lambda: harness.broker.is_draining)

    def _work(self, name: str) -> None:
        self.ran.append(name)
        if name == "long":
            assert self.may_end.wait(60)


def test_after_its_jobs_a_process_finishes_the_running_one_and_begins_anew(
    harness: Harness, told: list[int]
) -> None:
    draining = Draining(harness)
    for _ in range(3):
        draining.actor.send("late")
    assert (told, exit_reason()) == ([], None)
    draining.may_end.set()
    wait_until(lambda: told)
    assert exit_reason() == "recycled"
    assert draining.ran == ["long", "quick"]
    assert harness.broker.counts("default").waiting == 3


def test_sigterm_while_it_finishes_its_jobs_stops_it(harness: Harness, told: list[int]) -> None:
    draining = Draining(harness)
    handled = signals.stop_signals()
    assert handled is not None
    handled.handle(signal.SIGTERM, None)
    draining.may_end.set()
    harness.stop()
    assert (len(told), exit_reason()) == (1, "stopped")


def test_a_process_with_too_much_memory_is_recycled_but_not_in_its_first_minute(
    harness: Harness, told: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = [100 * MEGABYTE]
    monkeypatch.setattr(recycling, "resident_memory", lambda: memory[0])
    old = Recycling(RecyclingSettings(max_memory_mb=200), min_age=0)
    young = Recycling(RecyclingSettings(max_memory_mb=200))
    harness.actor(lambda: None)
    for each in (young, old):
        harness.broker.add_middleware(each)
    harness.start(threads=1)
    assert (young._reached_limit(), old._reached_limit()) == (None, None)
    memory[0] = 201 * MEGABYTE
    assert young._reached_limit() is None
    assert old._reached_limit() == {"jobs": 0, "memory_mb": 201}
    wait_until(lambda: told)


def test_the_limits_of_processes_differ(harness: Harness, told: list[int]) -> None:
    drawn = set()
    for _ in range(50):
        each: Any = Recycling(RecyclingSettings(max_jobs=1000))
        each.before_worker_boot(harness.broker, None)
        drawn.add(each._job_limit)
    assert len(drawn) > 10
    assert all(900 <= limit <= 1000 for limit in drawn)


def test_a_limit_that_cannot_hold_is_said(
    harness: Harness,
    told: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recycle(harness, max_memory_mb=1)
    harness.start(threads=1)
    assert "WORKER_MAX_MEMORY_MB is too low" in caplog.text
    harness.stop()
    monkeypatch.setattr(recycling, "find_restart", lambda: None)
    other = Harness(MemoryBroker(), "default")
    recycle(other, max_jobs=1)
    other.start(threads=1)
    other.stop()
    assert "are ignored: this process was not started by the dramatiq command" in caplog.text


def test_the_processes_of_a_worker_take_turns() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(f"\0formrelay-recycling-{os.getuid()}-{os.getppid()}")
        assert not turns.take_turn()
    assert turns.take_turn()
    assert turns.take_turn()
    turns.end_turn()


def unavailable(times: int) -> Callable[[Any], None]:
    left = [None] * times

    def check(queues: Any) -> None:
        if left:
            left.pop()
            raise BrokerUnavailable("away")

    return check


def test_a_recycled_process_waits_for_its_broker(
    monkeypatch: pytest.MonkeyPatch, told: list[int]
) -> None:
    monkeypatch.setattr(recycling, "_TRY_EVERY", 0.05)
    settings = SimpleNamespace(systemd=SystemdSettings())
    monkeypatch.setattr(recycling, "get_settings", lambda: settings)
    broker: Any = SimpleNamespace(ping=unavailable(2))
    with pytest.raises(BrokerUnavailable):
        ping(broker, None)
    monkeypatch.setattr(recycling, "recycle_count", lambda: 1)
    ping(broker, None)
    handled = signals.stop_signals()
    assert handled is not None
    handled.handle(signal.SIGTERM, None)
    broker.ping = unavailable(1)
    with pytest.raises(SystemExit) as ended:
        ping(broker, None)
    assert ended.value.code == 0


ACTORS = """
import os, time
import dramatiq

@dramatiq.actor(queue_name="own")
def note(number):
    time.sleep(0.02)
    with open("done", "a") as file:
        file.write(f"{number} {os.getpid()}\\n")
"""


@pytest.mark.slow
def test_a_recycled_process_keeps_its_id_and_each_job_runs_once(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(ACTORS)
    shell = Shell(tmp_path, FORMRELAY_IMPORTS="own", WORKER_MAX_JOBS="30", WORKER_PROCESSES="2")
    log, done = tmp_path / "worker.log", tmp_path / "done"
    (tmp_path / "jobs").write_text("".join(f"{number}\n" for number in range(240)))
    shell("send", "note", "@jobs")
    with shell.worker("own") as worker:
        wait_until(lambda: done.exists() and len(done.read_text().splitlines()) >= 240, timeout=90)
        wait_until(lambda: log.read_text().count("ready for action") >= 3, timeout=90)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    numbers, pids = zip(*map(str.split, done.read_text().splitlines()), strict=True)
    assert sorted(map(int, numbers)) == list(range(240))
    assert len(set(pids)) <= 2
    text = log.read_text()
    assert "recycling this process" in text
    assert "Traceback" not in text
    assert "exited unexpectedly" not in text
    assert shell.queue("own")["dead"] == 0
