"""Counts are kept while the history is unavailable, and count once."""

from __future__ import annotations

import logging
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from formrelay.core.broker_errors import BrokerUnavailable
from formrelay.core.failure import Failure, Reason
from formrelay.core.outcomes import DONE, Dead, Defer, Retry
from formrelay.middleware.history import HistoryRecorder
from formrelay.middleware.outcome_counts import OutcomeCounts
from formrelay.state.history import MAX_GROUPS, OTHER, total
from formrelay.state.memory_history import MemoryHistory
from formrelay.state.worker_reports import MemoryWorkerReports
from tests.support.clock import ManualClock

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def failure(error: str) -> Failure:
    return Failure(Reason.PERMANENT, error, "", "", 1, "")


class Store(MemoryHistory):
    """A history that fails as asked: before it adds the counts, or after (a lost answer)."""

    fails_before = fails_after = False
    calls = 0

    def add(self, *args: Any, **options: Any) -> None:
        self.calls += 1
        if self.fails_before:
            raise BrokerUnavailable("down")
        super().add(*args, **options)
        if self.fails_after:
            raise BrokerUnavailable("no answer")


class Broker:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.reports = MemoryWorkerReports()
        self.actors: dict[str, Any] = {}
        # It stands for its worker and for its consumer thread too.
        self.broker, self.consumers, self.running = self, {"q": self}, False

    def history(self) -> Store:
        return self.store

    def worker_reports(self) -> MemoryWorkerReports:
        return self.reports


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_800_000_000.0)


@pytest.fixture
def store(clock: ManualClock) -> Store:
    return Store(clock=clock)


@pytest.fixture
def recorder(clock: ManualClock, store: Store) -> Any:
    recorder = HistoryRecorder(clock=clock)
    broker: Any = Broker(store)
    recorder.before_worker_boot(broker, broker)
    yield recorder
    recorder.after_worker_shutdown(broker, broker)


def done_in(store: Store) -> list[int]:
    """The numbers of the last three minutes."""
    return [point.done for point in store.read(["q"], 3 * MINUTE)["q"]]


def test_counts_wait_while_the_store_is_unavailable_and_keep_their_minute(
    recorder: Any, store: Store, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    store.fails_before = True
    with caplog.at_level(logging.WARNING, "formrelay.workers"):
        for _ in range(25):  # two minutes
            recorder.count("q", "a", DONE, 0.1)
            recorder.flush()
            clock.now += 5
    assert store.calls == len(caplog.records) == 5  # after 0, 5, 15, 35 and 75 s
    store.fails_before = False
    clock.now += 30
    recorder.flush()
    assert sum(done_in(store)) == 25
    assert done_in(store)[0] > 5


def test_counts_whose_answer_was_lost_count_once(
    recorder: Any, store: Store, clock: ManualClock
) -> None:
    store.fails_after = True
    recorder.count("q", "a", DONE, 0.1)
    recorder.flush()
    recorder.count("q", "a", DONE, 0.1)  # counted after the store may have had the first
    store.fails_after = False
    clock.now += 10  # in the same minute
    recorder.flush()
    assert sum(done_in(store)) == 2


def test_counts_of_the_last_half_hour_are_kept(
    recorder: Any, store: Store, clock: ManualClock
) -> None:
    store.fails_before = True
    for _ in range(120):
        recorder.count("q", "a", DONE, 0.1)
        recorder.flush()
        clock.now += 60
    assert len(recorder._pending) == 30
    store.fails_before = False
    recorder.flush()
    assert total(store.read(["q"], HOUR)["q"]).done == 30


def test_the_end_of_the_worker_adds_the_last_counts(clock: ManualClock, store: Store) -> None:
    recorder, broker = HistoryRecorder(clock=clock), Broker(store)
    any_broker: Any = broker
    workers: list[Any] = [Broker(store), Broker(store)]
    recorder.count("q", "a", DONE, 0.1)  # without a worker, nothing is counted
    for worker in workers:
        recorder.before_worker_boot(any_broker, worker)
    recorder.count("q", "a", DONE, 0.1)
    recorder.after_worker_shutdown(any_broker, workers[0])
    assert store.calls == 0
    recorder.after_worker_shutdown(any_broker, workers[1])
    assert sum(done_in(store)) == 1
    assert not recorder._flushing.runs
    assert broker.reports.read() == []


def test_a_forked_process_has_a_name_and_numbers_of_its_own(recorder: Any, store: Store) -> None:
    recorder.count("q", "a", DONE, 0.1)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def run() -> None:
        recorder.before_worker_boot(Broker(store), None)
        answers.put((recorder._source, recorder._number, len(recorder._workers)))
        os._exit(0)

    child: Any = context.Process(target=run)
    child.start()
    source, number, workers = answers.get()
    child.join()
    assert source != recorder._source
    assert (number, workers) == (0, 1)


def test_threads_lose_no_count_while_the_counts_are_collected() -> None:
    counts = OutcomeCounts()
    retry = Retry(timedelta(0), failure("E"))

    def work(_: int) -> None:
        for _ in range(2_000):
            counts.add("q", "a", DONE, 0.01)
            counts.add("q", "a", retry, 0.02)

    found: dict[str, int] = {"done": 0, "retried": 0, "errors": 0, "durations": 0}

    def collect() -> None:
        for tally in counts.collect().values():
            found["done"] += tally.done
            found["retried"] += tally.retried
            found["errors"] += sum(tally.errors.values())
            found["durations"] += sum(tally.durations)

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work, number) for number in range(4)]
        while not all(each.done() for each in running):
            collect()
    collect()
    collect()  # the threads have ended: their counts are collected once
    assert found == {"done": 8_000, "retried": 8_000, "errors": 8_000, "durations": 16_000}
    assert counts._threads == []


def test_error_groups_are_limited() -> None:
    counts = OutcomeCounts(lambda failure: failure.error)
    for number in range(3 * MAX_GROUPS):
        counts.add("q", "a", Dead(failure(f"E{number}")), None)
    counts.add("q", "a", Defer(timedelta(0), ""), 1.0)
    tally = counts.collect()["q"]
    assert (tally.dead, tally.deferred, sum(tally.durations)) == (3 * MAX_GROUPS, 1, 0)
    assert len(tally.errors) == MAX_GROUPS + 1
    assert tally.errors[OTHER] == 2 * MAX_GROUPS
    assert counts.collect() == {}
