"""The work queue by itself, and in Dramatiq's worker."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import Empty

import pytest
from dramatiq.common import iter_queue
from dramatiq.middleware import TimeLimitExceeded
from dramatiq.threading import raise_thread_exception
from hypothesis import given, settings
from hypothesis import strategies as st

from formrelay.middleware import work_queue
from formrelay.middleware.job_costs import JobCosts
from formrelay.middleware.work_queue import WorkQueue
from tests.support.harness import Harness
from tests.support.waiting import wait_until

#: Seconds after which a test fails that would otherwise wait for ever.
TOO_LONG = 60


@dataclass
class Job:
    """A message, as far as the work queue knows it."""

    run: Callable[[], object] = lambda: None
    actor_name: str = "act"


@dataclass
class Item:
    """An item as Dramatiq puts it into the queue."""

    message: Job
    priority: int = 0


@dataclass
class Threads:
    """Threads that take jobs from a work queue, as a worker's threads do."""

    queue: WorkQueue
    running: bool = True
    all: list[threading.Thread] = field(default_factory=list)
    ran: list[Item] = field(default_factory=list)

    def start(self, number: int) -> None:
        self.all = [threading.Thread(target=self._work, daemon=True) for _ in range(number)]
        for thread in self.all:
            thread.start()

    def stop(self) -> None:
        self.running = False
        for thread in self.all:
            thread.join(TOO_LONG)

    def _work(self) -> None:
        while self.running:
            try:
                item = self.queue.get(timeout=0.05)
            except Empty:
                continue
            item.message.run()
            self.ran.append(item)
            self.queue.task_done()


@pytest.fixture
def queue() -> WorkQueue:
    return WorkQueue()


@pytest.fixture
def threads(queue: WorkQueue) -> Iterator[Threads]:
    threads = Threads(queue)
    yield threads
    threads.stop()


def put_short(queue: WorkQueue, number: int) -> None:
    """Put jobs by which the queue learns that the jobs of the actor are short."""
    for _ in range(number):
        queue.put(Item(Job()))


def expect_short(queue: WorkQueue) -> None:
    """Make the queue expect that the jobs of the actor are short."""
    costs = queue._costs["act"] = JobCosts()
    costs.took = costs.cpu = 1e-5


def test_the_lowest_priority_is_first_and_then_the_oldest(queue: WorkQueue) -> None:
    items = [Item(Job(), priority) for priority in (5, 0, 5, -1, 0)]
    for item in items:
        queue.put(item)
    order = [3, 1, 4, 0, 2]
    assert [id(queue.get(timeout=1)) for _ in items] == [id(items[index]) for index in order]


def test_only_a_job_before_all_others_wakes_a_thread_and_now_and_then_another(
    queue: WorkQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(queue, "_wake_next", lambda: looks.append(queue._put))
    for _ in range(work_queue._LOOK_EVERY + 1):
        queue.put(Item(Job(), priority=5))
    queue.put(Item(Job(), priority=1))
    queue.put(Item(Job(), priority=1))
    assert looks == [1, work_queue._LOOK_EVERY, work_queue._LOOK_EVERY + 2]


def test_takes_the_tuples_of_dramatiq_1(queue: WorkQueue) -> None:
    late, early = Job(), Job()
    queue.put((7, late))
    queue.put((1, early))
    assert queue.get(timeout=1) == (1, early)
    assert queue.get_nowait() == (7, late)


@pytest.mark.parametrize("how", ["nowait", "not block", "timeout"])
def test_an_empty_queue_says_so(queue: WorkQueue, how: str) -> None:
    get = {
        "nowait": queue.get_nowait,
        "not block": lambda: queue.get(block=False),
        "timeout": lambda: queue.get(timeout=0.01),
    }
    assert queue.empty()
    with pytest.raises(Empty):
        get[how]()


def test_join_waits_for_the_jobs_that_run(queue: WorkQueue, threads: Threads) -> None:
    may_end = threading.Event()
    queue.put(Item(Job(lambda: may_end.wait(TOO_LONG))))
    threads.start(2)
    joined = threading.Thread(target=queue.join)
    joined.start()
    wait_until(queue.empty)
    assert joined.is_alive()
    assert queue.unfinished_tasks == 1
    may_end.set()
    joined.join(TOO_LONG)
    assert not joined.is_alive()
    assert queue.unfinished_tasks == 0


def test_other_threads_take_the_jobs_of_a_thread_whose_job_takes_long(
    queue: WorkQueue, threads: Threads
) -> None:
    put_short(queue, 2_000)
    others_ran = threading.Event()
    # Taken together with the jobs after it, because the actor's jobs have been short.
    queue.put(Item(Job(lambda: others_ran.wait(TOO_LONG))))
    queue.put(Item(Job(others_ran.set)))
    put_short(queue, 20)
    threads.start(3)
    wait_until(lambda: len(threads.ran) == 2_022)
    assert others_ran.is_set()


@pytest.mark.parametrize("number", [2, 8])
def test_jobs_that_were_short_and_now_wait_get_all_threads(
    queue: WorkQueue, threads: Threads, number: int
) -> None:
    put_short(queue, 2_000)
    threads.start(number)
    wait_until(lambda: len(threads.ran) == 2_000)
    meeting = threading.Barrier(number, timeout=TOO_LONG)
    for _ in range(number):
        queue.put(Item(Job(meeting.wait)))
    wait_until(lambda: len(threads.ran) == 2_000 + number)
    assert not meeting.broken


def test_a_job_runs_while_the_jobs_before_it_wait_though_jobs_have_been_short(
    queue: WorkQueue, threads: Threads
) -> None:
    put_short(queue, 2_000)
    threads.start(4)
    wait_until(lambda: len(threads.ran) == 2_000)
    may_end = threading.Event()
    for _ in range(3):  # one by one, so that none is taken together with another
        began = threading.Event()
        queue.put(Item(Job(lambda began=began: began.set() or may_end.wait(TOO_LONG))))
        assert began.wait(TOO_LONG)
    put_short(queue, 1)
    wait_until(lambda: len(threads.ran) == 2_001)
    may_end.set()


def test_short_jobs_run_beside_long_jobs_of_all_other_threads(
    queue: WorkQueue, threads: Threads
) -> None:
    put_short(queue, 2_000)
    threads.start(4)
    wait_until(lambda: len(threads.ran) == 2_000)
    may_end = threading.Event()
    for _ in range(3):
        queue.put(Item(Job(lambda: may_end.wait(TOO_LONG), actor_name="long")))
    put_short(queue, 100)
    wait_until(lambda: len(threads.ran) == 2_100)
    may_end.set()


def test_jobs_behind_a_job_that_takes_long_run_though_no_thread_is_ever_idle(
    queue: WorkQueue, threads: Threads
) -> None:
    began, gate, others_ran = threading.Semaphore(0), threading.Event(), threading.Event()
    found: list[bool] = []

    def busy() -> None:
        others_ran.wait(0.01)
        if not found:
            queue.put(Item(Job(busy, actor_name="busy")))

    for _ in range(3):
        queue.put(Item(Job(lambda: began.release() or gate.wait(TOO_LONG), actor_name="gate")))
    threads.start(3)
    for _ in range(3):
        assert began.acquire(timeout=TOO_LONG)
    expect_short(queue)
    queue.put(Item(Job(lambda: found.append(others_ran.wait(TOO_LONG))), -1))
    queue.put(Item(Job(others_ran.set), -1))  # taken together with the first
    queue.put(Item(Job(), -1))
    for _ in range(12):
        queue.put(Item(Job(busy, actor_name="busy")))
    gate.set()
    wait_until(lambda: not queue.unfinished_tasks, timeout=2 * TOO_LONG)
    assert found == [True]


def test_threads_whose_job_takes_long_no_longer_count_as_threads_for_short_jobs(
    queue: WorkQueue, threads: Threads
) -> None:
    threads.start(4)
    expect_short(queue)
    may_end = threading.Event()
    for _ in range(2):
        began = threading.Event()
        queue.put(Item(Job(lambda began=began: began.set() or may_end.wait(TOO_LONG))))
        assert began.wait(TOO_LONG)
    put_short(queue, 20)
    wait_until(lambda: len(threads.ran) == 20)
    wait_until(lambda: queue.put(Item(Job())) or queue._short == 0, timeout=TOO_LONG / 2)
    may_end.set()


def test_an_interrupt_that_comes_after_its_job_ends_no_thread(
    queue: WorkQueue, threads: Threads
) -> None:
    interrupted = threading.Event()

    def work() -> None:
        while threads.running:
            try:
                item = queue.get(timeout=TOO_LONG)
            except Empty:
                interrupted.set()
                continue
            item.message.run()
            queue.task_done()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    wait_until(lambda: queue._idle)
    for _ in range(2):
        interrupted.clear()
        raise_thread_exception(thread.ident, TimeLimitExceeded)  # raised when the thread wakes
        queue.put(Item(Job()))
        assert interrupted.wait(TOO_LONG)
        wait_until(lambda: not queue.unfinished_tasks)
    queue.put(Item(Job(lambda: setattr(threads, "running", False))))
    thread.join(TOO_LONG)
    assert not thread.is_alive()


def test_what_stopped_threads_have_not_started_can_be_taken(queue: WorkQueue) -> None:
    threads = Threads(queue)
    put_short(queue, 5_000)
    queue.put(Item(Job(lambda: setattr(threads, "running", False))))
    put_short(queue, 500)
    threads.start(1)
    wait_until(lambda: not threads.running)
    threads.stop()
    left = list(iter_queue(queue))  # as Dramatiq does when a worker stops
    assert len(threads.ran) + len(left) == 5_501
    assert queue.empty()


@settings(max_examples=15)
@given(
    kinds=st.lists(st.sampled_from(["short", "other", "waits"]), min_size=1, max_size=300),
    number=st.integers(1, 6),
)
def test_every_job_runs_once_whatever_its_duration(kinds: list[str], number: int) -> None:
    queue = WorkQueue()
    threads = Threads(queue)
    threads.start(number)
    wait = threading.Event().wait
    jobs = {
        "short": Job(),
        "other": Job(actor_name="other"),
        "waits": Job(lambda: wait(0.001)),
    }
    items = [Item(jobs[kind], index % 2) for index, kind in enumerate(kinds)]
    for item in items:
        queue.put(item)
    queue.join()
    threads.stop()
    assert Counter(map(id, threads.ran)) == Counter(map(id, items))


def test_workers_have_it_and_pause_and_go_on(harness: Harness) -> None:
    ran: list[int] = []

    def act(number: int) -> None:
        ran.append(number)

    actor = harness.actor(act)
    for number in range(100):
        actor.send(number)
    harness.start(threads=4)
    worker = harness.worker
    assert worker is not None
    assert isinstance(worker.work_queue, WorkQueue)
    wait_until(lambda: len(ran) == 100)
    worker.pause()
    worker.resume()
    for number in range(100, 200):
        actor.send(number)
    wait_until(lambda: len(ran) == 200)
    worker.join()
    assert sorted(ran) == list(range(200))
