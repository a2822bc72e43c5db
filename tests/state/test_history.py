"""The history of queues, in memory and in Redis."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formrelay.core.durations import BIN_COUNT, BIN_ENDS
from formrelay.state import make_history, memory_history
from formrelay.state.history import (
    MAX_GROUPS,
    OTHER,
    Point,
    Tally,
    duration_bin,
    quantile,
    total,
)
from formrelay.state.memory_history import MemoryHistory
from formrelay.state.redis.history import RedisHistory
from tests.state.stores import state_of
from tests.support.clock import ManualClock

#: The begin of a bucket of ten minutes, and so of a minute.
START = 1_800_000_000.0
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def tally(*outcomes: int, durations: dict[int, int] | None = None, **more: Any) -> Tally:
    """A tally with counts by bin."""
    made = Tally(*outcomes, **more)
    for number, count in (durations or {}).items():
        made.durations[number] = count
    return made


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest, clock: ManualClock, monkeypatch: Any) -> Any:
    if request.param == "memory":
        return MemoryHistory(clock=clock)
    monkeypatch.setattr(RedisHistory, "_now", lambda _: clock.time())
    return make_history(state_of(request.getfixturevalue("redis_url")))


def test_counts_of_several_workers_add_up_in_the_minute_in_which_they_were_counted(
    store: Any, clock: ManualClock
) -> None:
    store.add({"a": tally(done=2, durations={3: 2}), "b": Tally(dead=1)}, source="x", number=1)
    store.add({"a": tally(done=1, retried=4, durations={3: 1, 5: 4})}, source="y", number=1)
    clock.now += 60
    store.add({"a": Tally(deferred=7)}, source="x", number=2)
    found = store.read(None, 3 * MINUTE)
    assert found["a"] == [
        Point(START - 60, 60),
        Point(START, 60, done=3, retried=4, durations=(0, 0, 0, 3, 0, 4)),
        Point(START + 60, 0, deferred=7),
    ]
    assert [point.dead for point in found["b"]] == [0, 1, 0]


def test_counts_that_arrive_late_are_stored_in_their_minute(store: Any, clock: ManualClock) -> None:
    clock.now += 30
    store.add({"a": Tally(done=1)}, age=timedelta(seconds=31), source="x", number=1)
    store.add({"a": Tally(done=1)}, age=timedelta(hours=3), source="x", number=2)
    store.add({"a": Tally(done=1)}, age=timedelta(days=3), source="x", number=3)
    assert [point.done for point in store.read(["a"], 3 * MINUTE)["a"]] == [0, 1, 0]
    assert total(store.read(["a"], timedelta(hours=2))["a"]).done == 1
    assert total(store.read(["a"], 2 * DAY)["a"]).done == 2


def test_a_repeated_call_counts_once(store: Any) -> None:
    for number in (1, 1, 2, 1):
        store.add({"a": Tally(done=1, errors={"e": 1})}, source="x", number=number)
    assert total(store.read()["a"]).done == 2
    assert store.errors() == {"a": {"e": 2}}


def test_a_day_is_read_in_steps_of_ten_minutes(store: Any, clock: ManualClock) -> None:
    store.add({"a": Tally(done=1)}, source="x", number=1)
    clock.now += 599
    store.add({"a": Tally(done=1)}, source="x", number=2)
    clock.now += 1
    points = store.read(["a"], DAY)["a"]
    assert len(points) == 144
    assert points[-2:] == [Point(START, 600, done=2), Point(START + 600, 0)]
    assert len(store.read(["a"], timedelta(days=30))["a"]) == 288
    assert len(store.read(["a"], timedelta(0))["a"]) == 1


def test_only_the_queues_that_are_asked_for_are_read(store: Any) -> None:
    errors = {"e": 1}
    store.add({name: Tally(dead=1, errors=errors) for name in "abc"}, source="x", number=1)
    found = store.read(["a", "never"])
    assert {queue: total(points).dead for queue, points in found.items()} == {"a": 1, "never": 0}
    assert store.errors(["a", "never"]) == {"a": errors}
    assert store.read([]) == store.errors([]) == {}
    assert sorted(store.read()) == ["a", "b", "c"]


def test_the_most_frequent_error_groups_are_kept_and_the_others_counted_together(
    store: Any,
) -> None:
    rare = {f"rare.{number}": 1 for number in range(2 * MAX_GROUPS)}
    store.add({"a": Tally(dead=40, errors=rare)}, source="x", number=1)
    store.add({"a": Tally(dead=9, errors={"frequent <locals> error": 9})}, source="x", number=2)
    groups = store.errors()["a"]
    assert len(groups) == MAX_GROUPS + 1
    assert next(iter(groups.items())) == ("frequent_<locals>_error", 9)
    assert list(groups.items())[-1] == (OTHER, 21)
    assert sum(groups.values()) == 49


def test_a_group_with_a_long_name_is_shortened(store: Any) -> None:
    errors = {"ü" * 1000 + "a=1": 1, "ü" * 1000: 2, " ": 4}
    store.add({"a": Tally(dead=7, errors=errors)}, source="x", number=1)
    assert store.errors() == {"a": {"ü" * 80: 3, OTHER: 4}}


def test_queues_beyond_the_maximum_are_counted_together(store: Any, monkeypatch: Any) -> None:
    for module in (memory_history, __import__("formrelay.state.redis.history", fromlist=["x"])):
        monkeypatch.setattr(module, "MAX_QUEUES", 3)
        monkeypatch.setattr(module, "MAX_FAILING_QUEUES", 2)
    for number in range(2):
        tallies = {name: Tally(dead=1, errors={"e": 1}) for name in "abcdef"}
        store.add(tallies, source="x", number=number)
    found = {queue: total(points).dead for queue, points in store.read().items()}
    assert found == {"a": 2, "b": 2, "c": 2, OTHER: 6}
    errors = {queue: groups["e"] for queue, groups in store.errors().items()}
    assert errors == {"a": 2, "b": 2, OTHER: 8}


def test_nothing_is_lost_when_many_workers_add_at_once(store: Any) -> None:
    def add(worker: int) -> None:
        for number in range(20):
            each = tally(done=1, retried=2, durations={4: 3}, errors={"e": 2})
            store.add({"a": each}, source=str(worker), number=number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    point = total(store.read()["a"])
    assert (point.done, point.retried, point.durations) == (160, 320, (0, 0, 0, 0, 480))
    assert store.errors() == {"a": {"e": 320}}


def test_memory_forgets_old_buckets() -> None:
    clock = ManualClock(START)
    store = MemoryHistory(clock=clock)
    for number in range(0, 3 * 24 * 60, 30):
        clock.now = START + 60 * number
        store.add({"a": Tally(done=1)}, source="x", number=number)
    assert len(store._buckets) <= 4 + 1 + 96 + 2


@pytest.mark.redis
def test_every_key_in_redis_expires(redis_url: str) -> None:
    state = state_of(redis_url, "ns")
    tallies = {"a": Tally(dead=1, errors={"e": 1})}
    make_history(state).add(tallies, source="x", number=1)
    keys = sorted(state.client.keys("*"))
    assert len(keys) == 5
    assert all(key.startswith(b"ns:__history__.") for key in keys)
    hours = [round(state.client.pttl(key) / 3_600_000) for key in keys]
    assert sorted(hours) == [1, 2, 2, 48, 48]


@given(st.floats(0, 10_000), st.floats(0, 10_000))
def test_a_longer_duration_is_never_in_a_lower_bin(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= duration_bin(low) <= duration_bin(high) <= len(BIN_ENDS)


@given(st.lists(st.floats(0.0005, 5000), min_size=1, max_size=50), st.sampled_from([0.5, 0.95]))
def test_a_quantile_is_in_the_bin_of_the_exact_quantile(seconds: list[float], share: float) -> None:
    durations = [0] * BIN_COUNT
    for each in seconds:
        durations[duration_bin(each)] += 1
    exact = sorted(seconds)[max(0, -int(-share * len(seconds) // 1) - 1)]
    found = quantile(durations, share)
    assert found is not None
    assert duration_bin(found) == duration_bin(exact)


def test_rates_of_a_point() -> None:
    point = Point(0, 60, done=90, retried=20, dead=10, deferred=5, durations=(120,))
    assert (point.attempts, point.per_second, point.error_rate) == (120, 2.0, 0.25)
    assert point.p50_s == pytest.approx(0.0005)
    empty = total([])
    assert (empty.per_second, empty.error_rate, empty.p50_s, empty.p95_s) == (0, None, None, None)
