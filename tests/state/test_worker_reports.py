"""Reports of worker processes, in memory and in Redis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from formrelay.state import make_worker_reports
from formrelay.state.worker_reports import (
    MAX_SILENT,
    MemoryWorkerReports,
    PausedSink,
    QueueSize,
    RunningJob,
    WorkerReport,
)
from tests.state.stores import set_clock, state_of, use_clock
from tests.support.clock import ManualClock

REPORT = WorkerReport(
    "host:1",
    "1.0",
    ("a", "b"),
    uptime=12.5,
    memory_bytes=50_000_000,
    running_count=7,
    running=(RunningJob("f", 3.5), RunningJob("g", 1.0, jobs=5)),
    paused=(PausedSink("api", 2.5), PausedSink("smtp", 60.0, is_failing=False)),
    stalled=31.5,
    problem="expected RabbitMQ to answer, got nothing",
    rate=12.5,
    error_rate=0.02,
    sizes=(QueueSize("a", 5, None, None, 2), QueueSize("b", 0, 7, 1, 0)),
    process="boot/4026531836/1/777",
    instance="c0ffee",
)


class Stores:
    """A store, and the time by which it goes."""

    def __init__(self) -> None:
        self._clock = ManualClock(1_800_000_000)
        self._client: Any = None
        self.store: Any = MemoryWorkerReports(clock=self._clock)

    @classmethod
    def of_redis(cls, url: str) -> Stores:
        stores, state = cls(), state_of(url)
        stores._client, stores.store = state.client, make_worker_reports(state)
        use_clock(stores.store, state.client, "worker_reports.lua")
        stores.wait(0)
        return stores

    def wait(self, seconds: float) -> None:
        self._clock.now += seconds
        if self._client is not None:
            set_clock(self._client, self._clock.now)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def stores(request: pytest.FixtureRequest) -> Stores:
    if request.param == "memory":
        return Stores()
    return Stores.of_redis(request.getfixturevalue("redis_url"))


def test_the_last_report_of_each_worker_is_read_with_its_age(stores: Stores) -> None:
    store = stores.store
    store.report(REPORT)
    store.report(replace(REPORT, name="host:2", memory_bytes=None, running=()))
    stores.wait(5)
    store.report(replace(REPORT, uptime=17.5))
    stores.wait(2)
    first, second = store.read()
    assert first == replace(REPORT, uptime=17.5, age=2.0)
    assert (second.name, second.age, second.memory_bytes) == ("host:2", 7.0, None)


def test_a_silent_worker_is_seen_until_its_report_expires(stores: Stores) -> None:
    stores.store.report(REPORT)
    stores.wait(20)
    assert not stores.store.read()[0].is_silent
    stores.wait(1)
    assert stores.store.read()[0].is_silent
    stores.wait(579)
    assert stores.store.read() == []
    stores.store.report(replace(REPORT, name="host:2"))
    assert [each.name for each in stores.store.read()] == ["host:2"]


def test_a_worker_that_ends_removes_its_report(stores: Stores) -> None:
    stores.store.report(REPORT)
    stores.store.report(replace(REPORT, name="host:2"))
    stores.store.remove(REPORT.id)
    stores.store.remove("unknown")
    assert [each.name for each in stores.store.read()] == ["host:2"]


def silent(store: Any, name: str = "host:9") -> list[str]:
    return [each.name for each in store.report(replace(REPORT, name=name))]


@pytest.mark.redis
def test_a_worker_learns_which_others_of_its_host_are_silent(redis_url: str) -> None:
    stores = Stores.of_redis(redis_url)
    store = stores.store
    for name in ("host:1", "host:2", "host2:3", "ho:4"):
        assert silent(store, name) == []
    stores.wait(15)
    silent(store, "host:2")
    stores.wait(6)
    assert silent(store) == ["host:1"]
    (found,) = [each for each in store.read() if each.name == "host:1"]
    assert not found.has_ended
    store.mark_ended(found)
    assert silent(store) == []
    assert [each.name for each in store.read() if each.has_ended] == ["host:1"]
    # A later process with the same name is another process.
    store.report(replace(REPORT, instance="other"))
    ended = {each.id: each.has_ended for each in store.read() if each.name == "host:1"}
    assert ended == {"host:1/c0ffee": True, "host:1/other": False}


@pytest.mark.redis
def test_the_number_of_silent_workers_is_limited(redis_url: str) -> None:
    stores = Stores.of_redis(redis_url)
    for number in range(MAX_SILENT + 5):
        silent(stores.store, f"host:{100 + number}")
    stores.wait(21)
    assert len(silent(stores.store)) == MAX_SILENT


@pytest.mark.redis
def test_every_key_in_redis_expires(redis_url: str) -> None:
    state = state_of(redis_url, "ns")
    make_worker_reports(state).report(REPORT)
    make_worker_reports(state).mark_ended(REPORT)
    keys = sorted(state.client.keys("ns:*"))
    assert keys == [b"ns:__reports__", b"ns:__reports__.ended", b"ns:__reports__.times"]
    assert all(0 < state.client.pttl(key) <= 600_000 for key in keys)


@pytest.mark.redis
def test_a_report_removes_expired_reports(redis_url: str) -> None:
    state = state_of(redis_url)
    store: Any = make_worker_reports(state)
    use_clock(store, state.client, "worker_reports.lua")
    for number in range(2):
        set_clock(state.client, 1_800_000_000 + 601 * number)
        store.report(replace(REPORT, name=f"host:{number}"))
    assert state.client.hkeys("dramatiq:__reports__") == [b"host:1/c0ffee"]


@pytest.mark.redis
def test_reports_of_other_versions_are_read(redis_url: str) -> None:
    state = state_of(redis_url)
    store = make_worker_reports(state)
    store.report(REPORT)
    wrong = ["nonsense", "[]", '{"version": 2, "queues": 1, "running": [1, {"actor": "f"}]}']
    wrong.append('{"rate": "x", "error_rate": [], "sizes": [1, {"waiting": null}], "process": 1}')
    wrong.append('{"version": "9", "new": 1}')
    for text in wrong:
        state.client.hset("dramatiq:__reports__", REPORT.id, text)
        (report,) = store.read()
        assert report.name == "host:1"
    assert report.version == "9"
