"""The contract of the task store, in memory and in a real Redis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from formrelay.state import make_task_store
from formrelay.state.redis.task_store import RedisTaskStore
from formrelay.state.task_store import MAX_TASKS, MemoryTaskStore, TaskRecord
from tests.state.stores import set_clock, state_of, use_clock
from tests.support.clock import ManualClock

START = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
TASK = TaskRecord("one", "dlq replay", "queue webhooks", "ann")


class Timed:
    """A store, and the clock by which it goes."""

    def __init__(self, store: Any, move: Callable[[float], None]) -> None:
        self.store, self._move = store, move
        self.to(START)

    def to(self, now: datetime) -> None:
        self._move(now.timestamp())


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def timed(request: pytest.FixtureRequest) -> Timed:
    if request.param == "memory":
        clock = ManualClock()
        return Timed(MemoryTaskStore(clock=clock), lambda now: setattr(clock, "now", now))
    state = state_of(request.getfixturevalue("redis_url"))
    store = RedisTaskStore(state)
    use_clock(store, state.client, "task_store.lua")
    return Timed(store, lambda now: set_clock(state.client, now))


def test_a_task_is_read_as_it_was_written_last(timed: Timed) -> None:
    store = timed.store
    assert store.find("one") is None
    assert store.newest() == []
    assert store.write(TASK) is None
    timed.to(START + timedelta(seconds=2))
    running = replace(TASK, state="running", done=500, total=1200)
    assert store.write(running) is None
    expected = replace(running, began_at=START, updated_at=START + timedelta(seconds=2))
    assert store.find("one") == expected
    assert store.newest() == [expected]


def test_the_process_of_a_task_hears_who_asked_to_stop_it(timed: Timed) -> None:
    store = timed.store
    assert not store.request_stop("one", "bob")
    store.write(TASK)
    assert store.request_stop("one", "bob")
    assert store.request_stop("one", "cat")
    assert store.find("one").stopped_by == "bob"
    assert store.write(replace(TASK, state="running")) == "bob"
    store.write(replace(TASK, state="stopped", done=3))
    assert not store.request_stop("one", "bob")
    assert store.find("one").stopped_by == "bob"


def test_the_newest_tasks_come_first_and_the_oldest_are_dropped(timed: Timed) -> None:
    names = [str(number) for number in range(MAX_TASKS + 5)]
    for name in names:  # all in the same millisecond
        timed.store.write(replace(TASK, id=name))
    timed.store.write(replace(TASK, id="20", done=1))  # does not become newer
    assert [task.id for task in timed.store.newest()] == names[:4:-1]


@pytest.mark.redis
def test_keys_have_the_namespace_and_expire(redis_url: str) -> None:
    state = state_of(redis_url, "ns")
    make_task_store(state).write(TASK)
    keys = sorted(state.client.keys("*"))
    assert keys == [b"ns:__tasks__", b"ns:__tasks__.one"]
    assert all(86_000_000 < state.client.pttl(key) <= 86_400_000 for key in keys)
    assert make_task_store(state_of(redis_url)).newest() == []


def test_memory_forgets_a_task_after_a_day() -> None:
    clock = ManualClock(START.timestamp())
    store = MemoryTaskStore(clock=clock)
    store.write(TASK)
    clock.now += 86_400
    assert store.newest() == []
    assert store.find("one") is None
