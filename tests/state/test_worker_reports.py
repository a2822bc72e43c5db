"""Reports of worker processes, in memory and in Redis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from formrelay.state import make_worker_reports
from formrelay.state.worker_reports import MemoryWorkerReports, PausedSink, RunningJob, WorkerReport
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
)


class Stores:
    """A store, and the time by which it goes."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._clock = ManualClock(1_800_000_000)
        self._client: Any = None
        self.store: Any = MemoryWorkerReports(clock=self._clock)
        if request.param == "redis":
            state = state_of(request.getfixturevalue("redis_url"))
            self._client, self.store = state.client, make_worker_reports(state)
            use_clock(self.store, state.client, "worker_reports.lua")
        self.wait(0)

    def wait(self, seconds: float) -> None:
        self._clock.now += seconds
        if self._client is not None:
            set_clock(self._client, self._clock.now)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def stores(request: pytest.FixtureRequest) -> Stores:
    return Stores(request)


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
    stores.wait(30)
    assert not stores.store.read()[0].is_silent
    stores.wait(1)
    assert stores.store.read()[0].is_silent
    stores.wait(569)
    assert stores.store.read() == []
    stores.store.report(replace(REPORT, name="host:2"))
    assert [each.name for each in stores.store.read()] == ["host:2"]


def test_a_worker_that_ends_removes_its_report(stores: Stores) -> None:
    stores.store.report(REPORT)
    stores.store.report(replace(REPORT, name="host:2"))
    stores.store.remove("host:1")
    stores.store.remove("unknown")
    assert [each.name for each in stores.store.read()] == ["host:2"]


@pytest.mark.redis
def test_every_key_in_redis_expires(redis_url: str) -> None:
    state = state_of(redis_url, "ns")
    make_worker_reports(state).report(REPORT)
    keys = sorted(state.client.keys("ns:*"))
    assert keys == [b"ns:__reports__", b"ns:__reports__.times"]
    assert all(0 < state.client.pttl(key) <= 600_000 for key in keys)


@pytest.mark.redis
def test_a_report_removes_expired_reports(redis_url: str) -> None:
    state = state_of(redis_url)
    store: Any = make_worker_reports(state)
    use_clock(store, state.client, "worker_reports.lua")
    for number in range(2):
        set_clock(state.client, 1_800_000_000 + 601 * number)
        store.report(replace(REPORT, name=f"host:{number}"))
    assert state.client.hkeys("dramatiq:__reports__") == [b"host:1"]


@pytest.mark.redis
def test_reports_of_other_versions_are_read(redis_url: str) -> None:
    state = state_of(redis_url)
    store = make_worker_reports(state)
    store.report(REPORT)
    wrong = ["nonsense", "[]", '{"version": 2, "queues": 1, "running": [1, {"actor": "f"}]}']
    wrong.append('{"version": "9", "new": 1}')
    for text in wrong:
        state.client.hset("dramatiq:__reports__", "host:1", text)
        (report,) = store.read()
        assert report.name == "host:1"
    assert report.version == "9"
