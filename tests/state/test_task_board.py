"""The contract of the board of tasks, in memory and in a real Redis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from formrelay.state import make_task_board
from formrelay.state.redis.task_board import RedisTaskBoard
from formrelay.state.task_board import MAX_TASKS, MemoryTaskBoard, TaskRecord
from tests.state.stores import set_clock, state_of, use_clock
from tests.support.clock import ManualClock

START = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
TASK = TaskRecord("one", "dlq replay", "queue webhooks", "ann")


class Timed:
    """A board and the time it has."""

    def __init__(self, board: Any, move: Callable[[float], None]) -> None:
        self.board, self._move = board, move
        self.to(START)

    def to(self, now: datetime) -> None:
        self._move(now.timestamp())


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def timed(request: pytest.FixtureRequest) -> Timed:
    if request.param == "memory":
        clock = ManualClock()
        return Timed(MemoryTaskBoard(clock=clock), lambda now: setattr(clock, "now", now))
    state = state_of(request.getfixturevalue("redis_url"))
    board = RedisTaskBoard(state)
    use_clock(board, state.client, "task_board.lua")
    return Timed(board, lambda now: set_clock(state.client, now))


def test_a_task_is_read_as_it_was_written_last(timed: Timed) -> None:
    board = timed.board
    assert board.find("one") is None
    assert board.newest() == []
    assert board.write(TASK) is None
    timed.to(START + timedelta(seconds=2))
    running = replace(TASK, state="running", done=500, total=1200)
    assert board.write(running) is None
    expected = replace(running, began_at=START, updated_at=START + timedelta(seconds=2))
    assert board.find("one") == expected
    assert board.newest() == [expected]


def test_the_process_of_a_task_hears_who_asked_to_stop_it(timed: Timed) -> None:
    board = timed.board
    assert not board.stop("one", "bob")
    board.write(TASK)
    assert board.stop("one", "bob")
    assert board.stop("one", "cat")
    assert board.find("one").stopped_by == "bob"
    assert board.write(replace(TASK, state="running")) == "bob"
    board.write(replace(TASK, state="stopped", done=3))
    assert not board.stop("one", "bob")
    assert board.find("one").stopped_by == "bob"


def test_the_newest_tasks_come_first_and_the_oldest_are_dropped(timed: Timed) -> None:
    names = [str(number) for number in range(MAX_TASKS + 5)]
    for name in names:  # all in the same millisecond
        timed.board.write(replace(TASK, id=name))
    timed.board.write(replace(TASK, id="20", done=1))  # does not become newer
    assert [task.id for task in timed.board.newest()] == names[:4:-1]


@pytest.mark.redis
def test_keys_have_the_namespace_and_expire(redis_url: str) -> None:
    state = state_of(redis_url, "ns")
    make_task_board(state).write(TASK)
    keys = sorted(state.client.keys("*"))
    assert keys == [b"ns:__tasks__", b"ns:__tasks__.one"]
    assert all(86_000_000 < state.client.pttl(key) <= 86_400_000 for key in keys)
    assert make_task_board(state_of(redis_url)).newest() == []


def test_memory_forgets_a_task_after_a_day() -> None:
    clock = ManualClock(START.timestamp())
    board = MemoryTaskBoard(clock=clock)
    board.write(TASK)
    clock.now += 86_400
    assert board.newest() == []
    assert board.find("one") is None
