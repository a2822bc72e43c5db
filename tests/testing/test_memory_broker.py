"""What the in-memory broker has beyond the contract of all brokers: a clock, and ``join()``."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from threading import Event
from typing import Any

import dramatiq
import pytest
from dramatiq.errors import QueueJoinTimeout
from dramatiq.middleware import GroupCallbacks, TimeLimitExceeded
from dramatiq.rate_limits.backends import StubBackend

from formrelay.core.errors import NotNow, PartsFailed
from formrelay.core.failure import Reason
from formrelay.core.retry import RetryPolicy, Schedule
from formrelay.state import once
from formrelay.testing import MemoryBroker, running_worker
from tests.support.waiting import wait_until

HOUR = timedelta(hours=1)
SLOW = RetryPolicy(max_attempts=4, jitter=0, backoff=Schedule((timedelta(0), HOUR, 24 * HOUR)))
NEVER = RetryPolicy(max_attempts=1)


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    broker = MemoryBroker()
    yield broker
    broker.close()


@pytest.fixture
def worker(broker: MemoryBroker) -> Iterator[dramatiq.Worker]:
    with running_worker(broker) as worker:
        yield worker


def actor(broker: MemoryBroker, function: Any, queue: str = "q", **options: Any) -> Any:
    return dramatiq.actor(function, broker=broker, queue_name=queue, **options)


# -- time --------------------------------------------------------------------------------------


def test_a_join_does_not_wait_for_retries_after_hours(broker: MemoryBroker, worker: object) -> None:
    at: list[timedelta] = []

    def fail() -> None:
        at.append(broker.clock.moved)
        if len(at) < 4:
            raise ValueError

    actor(broker, fail, policy=SLOW).send()
    began = time.monotonic()
    broker.join("q")
    assert time.monotonic() - began < 30
    waits = [round((after - before) / HOUR, 2) for before, after in pairwise(at)]
    assert waits == [1, 24, 24]


def test_a_moved_clock_makes_scheduled_messages_due(broker: MemoryBroker, worker: object) -> None:
    ran: list[str] = []
    note = actor(broker, ran.append, actor_name="note")
    note.send_with_options(args=("in 3 days",), delay=3 * 86_400_000)
    note.send_with_options(args=("in 1 hour",), delay=3_600_000)
    note.send("now")
    wait_until(lambda: ran == ["now"])
    broker.clock.move(2 * HOUR)
    wait_until(lambda: ran == ["now", "in 1 hour"])
    assert broker.counts("q").scheduled == 1
    broker.join("q")
    assert ran[2:] == ["in 3 days"]
    with pytest.raises(ValueError, match="expected a timedelta of zero or more"):
        broker.clock.move(-HOUR)


def test_the_clock_is_not_moved_while_a_job_of_any_queue_runs(
    broker: MemoryBroker, worker: object
) -> None:
    """Otherwise the lock of the running job would expire, and its key would run twice."""
    ran: list[str] = []
    began = Event()

    def ship(order: str) -> None:
        ran.append(order)
        began.set()
        time.sleep(0.7)

    first = actor(broker, ship, actor_name="ship", idempotency=once(lambda order: order))
    first.send("o-1")
    assert began.wait(60)
    again = first.message("o-1").copy(queue_name="other")
    broker.declare_queue("other")
    broker.enqueue(again)
    broker.join("other")
    broker.join("q")
    assert ran == ["o-1"]
    assert broker.clock.moved < timedelta(seconds=10)


def test_a_batch_does_not_wait_in_a_join(broker: MemoryBroker, worker: object) -> None:
    sizes: list[int] = []

    def collect(batch: list[Any]) -> None:
        sizes.append(len(batch))

    many = actor(broker, collect, batch_size=10, batch_wait=HOUR)
    for number in range(13):
        many.send(number=number)
    broker.join("q")
    assert sizes == [10, 3]


def test_ages_and_idempotency_keys_follow_the_clock(broker: MemoryBroker, worker: object) -> None:
    ran: list[str] = []
    note = actor(broker, ran.append, actor_name="note", max_age=3_600_000)
    note.send_with_options(args=("too old",), delay=2 * 3_600_000)
    broker.join("q", fail_fast=False)
    (letter,) = broker.dead_letters("q")
    assert letter.failure is not None
    assert letter.failure.reason is Reason.EXPIRED
    keyed = actor(
        broker,
        lambda key: ran.append(key),
        "keys",
        actor_name="keyed",
        idempotency=once(lambda key: key, keep=HOUR),
    )
    for expected in (["a"], ["a"], ["a", "a"]):
        keyed.send("a")
        broker.join("keys")
        assert ran == expected
        if expected == ["a"]:
            broker.clock.move(timedelta(minutes=40))


def test_dead_letters_are_kept_for_thirty_days(broker: MemoryBroker, worker: object) -> None:
    def fail() -> None:
        raise ValueError

    actor(broker, fail, policy=NEVER).send()
    broker.join("q", fail_fast=False)
    broker.clock.move(timedelta(days=29))
    assert broker.counts("q").dead == 1
    broker.clock.move(timedelta(days=2))
    assert broker.counts("q").dead == 0


# -- join --------------------------------------------------------------------------------------


def test_a_job_that_is_deferred_for_ever_ends_the_join(
    broker: MemoryBroker, worker: object
) -> None:
    def never() -> None:
        raise NotNow("busy", after=HOUR)

    actor(broker, never).send()
    with pytest.raises(QueueJoinTimeout, match=r"to be empty within 300 ms, got 1"):
        broker.join("q", timeout=300)


def test_a_join_without_a_worker_says_so(broker: MemoryBroker) -> None:
    actor(broker, print, actor_name="note").send()
    with pytest.raises(QueueJoinTimeout, match="1 waiting, and no worker: use the fixture"):
        broker.join("q")


def test_a_join_raises_the_error_of_the_part_that_failed(
    broker: MemoryBroker, worker: object
) -> None:
    def collect(batch: list[dict[str, int]]) -> None:
        raise PartsFailed({1: KeyError("the second")})

    many = actor(broker, collect, batch_size=3, batch_wait=HOUR, policy=NEVER)
    for number in range(3):
        many.send(number=number)
    with pytest.raises(KeyError, match="the second"):
        broker.join("q")
    (letter,) = broker.dead_letters("q")
    assert letter.message.kwargs == {"number": 1}


def test_a_group_calls_back_after_its_last_job(broker: MemoryBroker, worker: object) -> None:
    broker.add_middleware(GroupCallbacks(StubBackend()))
    ran: list[Any] = []

    def work(number: int) -> None:
        ran.append(number)
        if ran.count(number) < 2:
            raise ValueError

    jobs = actor(broker, work, policy=SLOW)
    told = actor(broker, lambda: ran.append("all"), actor_name="tell")
    group = dramatiq.group([jobs.message(number) for number in range(3)], broker=broker)
    group.add_completion_callback(told.message())
    group.run()
    broker.join("q")
    assert ran[-1] == "all"
    assert sorted(ran[:-1]) == [0, 0, 1, 1, 2, 2]


def test_a_replayed_dead_letter_runs_again(broker: MemoryBroker, worker: object) -> None:
    is_repaired = False

    def work() -> None:
        if not is_repaired:
            raise ValueError("broken")

    sent = actor(broker, work, policy=NEVER).send()
    with pytest.raises(ValueError, match="broken"):
        broker.join("q")
    is_repaired = True
    assert broker.replay("q", sent.message_id)
    broker.join("q")


def test_higher_priorities_run_first(broker: MemoryBroker) -> None:
    ran: list[str] = []
    note = actor(broker, ran.append, actor_name="note")
    for name, priority in (("low", None), ("high", 9), ("middle", 4), ("high too", 9)):
        note.send_with_options(args=(name,), broker_priority=priority)
    with running_worker(broker, threads=1):
        broker.join("q")
    assert ran == ["high", "high too", "middle", "low"]


def test_an_async_actor_that_is_declared_late_runs(broker: MemoryBroker) -> None:
    actor(broker, print, actor_name="first")
    worker = dramatiq.Worker(broker, worker_timeout=20)
    worker.start()
    worker.stop()
    ran: list[int] = []

    async def work(number: int) -> None:
        ran.append(number)

    late = actor(broker, work, in_flight=3)
    for number in range(20):
        late.send(number)
    with running_worker(broker):
        broker.join("q")
    assert sorted(ran) == list(range(20))


# -- the worker --------------------------------------------------------------------------------


def test_a_time_limit_interrupts_a_job(broker: MemoryBroker, worker: object) -> None:
    def spin() -> None:
        wait_until(lambda: False)

    actor(broker, spin, policy=NEVER, time_limit=200).send()
    with pytest.raises(TimeLimitExceeded):
        broker.join("q")


def test_no_thread_is_left_after_the_worker() -> None:
    before = set(threading.enumerate())  # tests of other files may have left some
    broker = MemoryBroker()

    async def wait() -> None:
        """Start the event loop."""

    actor(broker, wait, in_flight=5, on_success="tell").send()
    actor(broker, lambda *_: None, actor_name="tell")
    actor(broker, lambda: None, "keys", actor_name="keyed", idempotency=once(lambda: "a")).send()
    with running_worker(broker):
        broker.join("q")
        broker.join("keys")
        assert len(of_formrelay() - before) >= 3
    wait_until(lambda: set(threading.enumerate()) <= before)


def of_formrelay() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name.startswith("formrelay-")}


def test_a_stopped_worker_takes_no_message_of_a_later_queue(broker: MemoryBroker) -> None:
    with running_worker(broker):
        pass
    ran: list[int] = []
    # The declaration of the actor would have started a consumer.
    actor(broker, lambda: ran.append(1), "later", actor_name="note").send()
    assert broker.consumed_queues() == set()
    assert broker.counts("later").waiting == 1
    with running_worker(broker):
        broker.join("later")
    assert ran == [1]
    assert len([one for one in broker.middleware if hasattr(one, "worker")]) == 0


def test_a_reset_forgets_messages_keys_and_time(broker: MemoryBroker) -> None:
    ran: list[int] = []
    note = actor(broker, lambda: ran.append(1), actor_name="note", idempotency=once(lambda: "a"))
    note.send()
    with running_worker(broker):
        broker.join("q")
    broker.clock.move(HOUR)
    note.send()
    broker.reset()
    assert broker.clock.moved == timedelta(0)
    assert broker.counts("q").waiting == 0
    note.send()
    with running_worker(broker):
        broker.join("q")
    assert ran == [1, 1]
