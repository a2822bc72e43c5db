"""Tests that threads compute in turn while one of them runs short jobs, and never wait for long.

The waits in here are far longer than a turn may take, so that a slow machine passes too. The
fixture `patient` also raises the limits of `ComputeTurns`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from formrelay.core import compute_turns
from formrelay.core.compute_turns import ComputeTurns

from ..support.waiting import wait_until

#: Seconds that no turn takes.
LONG = 30.0


@pytest.fixture
def turns() -> ComputeTurns:
    return ComputeTurns()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the limits, so that a thread that starts or wakes late does not give up its turn."""
    monkeypatch.setattr(compute_turns, "_LATE", LONG)
    monkeypatch.setattr(compute_turns, "_BUSY_SECONDS", LONG)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


@pytest.fixture
def run_jobs(turns: ComputeTurns) -> Iterator[Callable[[], None]]:
    """Begins short jobs in this thread; each call ends a chunk."""
    turns.begin()

    def next_chunk() -> None:
        turns.begin()
        turns.give()

    yield next_chunk
    turns.stop()


def waiting(turns: ComputeTurns, count: int) -> None:
    wait_until(lambda: len(turns._waiting) == count)


def test_without_short_jobs_nobody_waits(turns: ComputeTurns) -> None:
    assert turns.wait(LONG) is False


@pytest.mark.usefixtures("patient")
def test_jobs_wait_until_the_turn_of_another_thread_ends(
    turns: ComputeTurns, threads: ThreadPoolExecutor, run_jobs: Callable[[], None]
) -> None:
    did: list[str] = []

    def fetch() -> None:
        turns.wait(0)
        did.append("fetched")
        turns.end()

    fetched = threads.submit(fetch)
    waiting(turns, 1)
    run_jobs()
    did.append("next job")
    fetched.result(LONG)
    assert did == ["fetched", "next job"]


@pytest.mark.usefixtures("patient")
def test_the_turn_comes_when_it_is_due_or_the_thread_is_ready(
    turns: ComputeTurns, threads: ThreadPoolExecutor, run_jobs: Callable[[], None]
) -> None:
    settlements: list[int] = []

    def settle() -> bool:
        had_turn = turns.wait(LONG, lambda: len(settlements) >= 2)
        turns.end()
        return had_turn

    early = threads.submit(settle)
    waiting(turns, 1)
    settlements.append(1)
    run_jobs()
    waiting(turns, 1)
    settlements.append(2)
    run_jobs()
    assert early.result(LONG) is True


@pytest.mark.usefixtures("patient")
def test_a_thread_that_waits_is_let_go_when_the_jobs_end(
    turns: ComputeTurns, threads: ThreadPoolExecutor
) -> None:
    turns.begin()
    waits = [threads.submit(turns.wait, LONG) for _ in range(3)]
    waiting(turns, 3)
    turns.stop()
    assert [each.result(LONG) for each in waits] == [True] * 3


def test_a_job_that_hangs_delays_other_threads_by_milliseconds(
    turns: ComputeTurns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute_turns, "_BUSY_SECONDS", 1.0)
    turns.begin()  # and no turn is given
    started = time.monotonic()
    assert turns.wait(0.001) is True
    assert time.monotonic() - started < LONG
    wait_until(lambda: turns.wait(0.001) is False)  # it no longer counts as short


@pytest.mark.usefixtures("patient")
def test_a_turn_that_does_not_end_delays_the_jobs_by_milliseconds(
    turns: ComputeTurns,
    threads: ThreadPoolExecutor,
    run_jobs: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_over = threading.Event()

    def hang() -> None:
        turns.wait(0)
        is_over.wait(LONG)

    hanging = threads.submit(hang)
    waiting(turns, 1)
    monkeypatch.setattr(compute_turns, "_LATE", 0.01)
    run_jobs()  # returns, though the turn has not ended
    assert not hanging.done()
    is_over.set()
    hanging.result(LONG)


@pytest.mark.usefixtures("patient")
def test_a_pause_is_only_for_a_thread_with_a_turn(
    turns: ComputeTurns,
    threads: ThreadPoolExecutor,
    run_jobs: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = time.monotonic()
    with monkeypatch.context() as longer:
        longer.setattr(compute_turns, "_PAUSE", LONG)
        turns.pause()  # this thread runs the jobs: it would wait for itself
    assert time.monotonic() - started < LONG
    did: list[str] = []

    def exchange() -> None:
        turns.wait(0)
        did.append("sent")
        turns.pause()
        did.append("received")
        turns.end()

    exchanged = threads.submit(exchange)
    waiting(turns, 1)
    run_jobs()
    did.append("job")
    while not exchanged.done():
        run_jobs()
    exchanged.result(LONG)
    assert did == ["sent", "job", "received"]


@pytest.mark.usefixtures("patient")
def test_a_turn_that_comes_too_late_does_not_end_the_next_wait(
    turns: ComputeTurns,
    threads: ThreadPoolExecutor,
    run_jobs: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compute_turns, "_LATE", 1.0)
    waits = threads.submit(lambda: [turns.wait(0.0), turns.wait(LONG)])
    waiting(turns, 1)
    late = turns._waiting.pop()  # as a giver that is interrupted after this step
    wait_until(lambda: turns._waiting and turns._waiting[0] is not late)
    late.has_turn = True
    late.wake.release()
    run_jobs()
    waiting(turns, 1)
    turns.stop()
    turns.stop()
    assert waits.result(LONG) == [True, True]


def test_threads_in_any_order_all_go_on(turns: ComputeTurns, threads: ThreadPoolExecutor) -> None:
    counts = [0] * 4

    def take_turns(number: int) -> None:
        choose = random.Random(number)
        while min(counts) < 100:
            step = choose.choice(
                [turns.pause, turns.end, lambda: turns.wait(choose.random() / 500)]
            )
            step()
            counts[number] += 1

    others: list[Future[None]] = [threads.submit(take_turns, number) for number in range(4)]
    choose = random.Random(4)
    while not all(each.done() for each in others):
        turns.begin()
        turns.give()
        if choose.random() < 0.1:
            turns.stop()
    for each in others:
        each.result(LONG)
    turns.stop()
    assert turns._waiting == []


def test_a_forked_process_starts_without_turns(turns: ComputeTurns) -> None:
    turns.begin()
    turns.forget()
    assert turns.wait(LONG) is False


def test_a_thread_does_not_wait_for_a_turn_that_another_has_given(
    turns: ComputeTurns, threads: ThreadPoolExecutor, patient: None
) -> None:
    turns.begin()
    may_end = threading.Event()

    def has_turn() -> None:
        turns.wait(0)
        may_end.wait(LONG)
        turns.end()

    def another_gives() -> bool:
        """As a second thread with jobs, while the first looks at its copy of the list."""
        return bool(len(turns._waiting) == 2 and turns._give(turns._waiting[1]) and False)

    first = threads.submit(turns.wait, LONG, another_gives)
    waiting(turns, 1)
    second = threads.submit(has_turn)
    waiting(turns, 2)
    gives = threads.submit(turns.give)
    gives.result(LONG / 2)
    assert not second.done()
    may_end.set()
    turns.stop()
    for each in (first, second):
        each.result(LONG)
