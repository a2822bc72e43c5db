"""What monitors share is the same in memory and in Redis, and only the leader changes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formrelay.state.alert_store import AlertStore, MemoryAlertStore, OutboxEntry
from formrelay.state.redis.alert_store import RedisAlertStore
from tests.state.stores import set_clock, state_of, use_clock
from tests.support.clock import ManualClock

pytestmark = pytest.mark.redis
START, MOST = 1_800_000_000, 3
MINUTE = timedelta(minutes=1)

entry = st.builds(
    OutboxEntry,
    st.sampled_from([f"id{number}" for number in range(6)]),
    st.sampled_from(["log", "slack"]),
    st.just({"key": "k"}),
    st.integers(START, START + 3).map(float),
    st.integers(0, 2),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([1, 59, 61, 700])),
        st.tuples(st.just("lead"), st.sampled_from("abc"), st.sampled_from([-5, 0, 2])),
        st.tuples(st.just("let_go"), st.sampled_from("abc")),
        st.tuples(
            st.just("commit"), st.sampled_from("ab"), st.integers(0, 9), st.lists(entry, max_size=4)
        ),
        st.tuples(st.just("settle"), st.lists(entry, max_size=2), st.lists(entry, max_size=2)),
    ),
    max_size=25,
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


def shared_store(redis_url: str) -> RedisAlertStore:
    state = state_of(redis_url, os.urandom(4).hex())
    store = RedisAlertStore(state, most=MOST)
    use_clock(store, state.client, RedisAlertStore.script)
    return store


@pytest.fixture
def shared(redis_url: str) -> Iterator[RedisAlertStore]:
    store = shared_store(redis_url)
    yield store
    store._redis.client.close()


@settings(
    max_examples=min(40, settings().max_examples),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps)
def test_any_calls_have_the_same_results_in_memory_and_in_redis(
    shared: RedisAlertStore, steps: list[Any]
) -> None:
    clock = ManualClock(START)
    memory = MemoryAlertStore(clock=clock, most=MOST)
    client = shared._redis.client
    client.flushall()
    set_clock(client, clock.now)
    stores: list[AlertStore] = [memory, shared]
    for what, *arguments in steps:
        if what == "wait":
            clock.now += arguments[0]
            set_clock(client, clock.now)
            continue
        found = [_call(store, clock, what, arguments) for store in stores]
        assert found[0] == found[1], (what, arguments)
        assert memory.load() == shared.load()


def _call(store: AlertStore, clock: ManualClock, what: str, arguments: list[Any]) -> object:
    match what:
        case "lead":
            name, ahead = arguments
            return store.lead(name, MINUTE, clock.now + ahead)
        case _:
            return getattr(store, what)(*arguments)


def test_a_leader_whose_lease_ended_changes_nothing(shared: RedisAlertStore) -> None:
    client = shared._redis.client
    set_clock(client, START)
    assert shared.lead("a", MINUTE, START).leads
    assert not shared.lead("b", MINUTE, START).leads
    assert shared.commit("a", [1], [OutboxEntry("x", "log", {}, START)]) == 0
    set_clock(client, START + 61)
    assert shared.commit("a", [2], []) is None, "it was stopped for a minute"
    answer = shared.lead("b", MINUTE, START + 61)
    assert (answer.leads, answer.monitors, answer.ends) == (True, ("b", "a"), START + 121)
    states, outbox = shared.load()
    assert (states, [entry.id for entry in outbox]) == ([1], ["x"])
    assert shared.commit("a", [3], []) is None
    shared.let_go("b")
    assert shared.lead("a", MINUTE, START + 61).leads


def test_entries_of_another_version_are_left_alone(shared: RedisAlertStore) -> None:
    shared._redis.client.hset(f"{shared._prefix}.outbox", "log new", b'{"format": 2}')
    assert shared.load() == (None, [])
