"""``broker.join()`` waits for a queue, as tests of Dramatiq's users do."""

from __future__ import annotations

from datetime import timedelta
from threading import Event

import pytest
from dramatiq.errors import QueueJoinTimeout, QueueNotFound

from formrelay.brokers import DeadLettered
from formrelay.core.errors import NotNow
from formrelay.core.retry import RetryPolicy, Schedule
from formrelay.testing import MemoryBroker
from tests.brokers.contract.test_awaiting import awaiting
from tests.support.harness import Harness

SOON = RetryPolicy(
    max_attempts=3, jitter=0, backoff=Schedule((timedelta(0), timedelta(milliseconds=400)))
)


def test_a_join_waits_for_running_retried_and_delayed_jobs(harness: Harness) -> None:
    done: list[str] = []
    tries: list[int] = []
    is_late = Event()

    def slow() -> None:
        assert is_late.wait(60)
        done.append("slow")

    def late() -> None:
        done.append("late")
        is_late.set()

    def fail_twice() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError
        done.append("retried")

    def defer_once() -> None:
        if "deferred" not in done:
            done.append("deferred")
            raise NotNow("busy", after=timedelta(milliseconds=300))
        done.append("done")

    for function in (slow, fail_twice, defer_once):
        harness.actor(function, policy=SOON).send()
    harness.actor(late).send_with_options(delay=2_000)
    harness.start()
    harness.broker.join(harness.queue, timeout=60_000, fail_fast=True)
    assert sorted(done) == ["deferred", "done", "late", "retried", "slow"]


def test_a_join_waits_for_async_jobs_and_batches(harness: Harness) -> None:
    from asyncio import sleep

    done: list[int] = []

    async def wait(number: int) -> None:
        await sleep(0.3)
        done.append(number)

    actor = awaiting(harness, wait)
    for number in range(5):
        actor.send(number)
    harness.start(threads=1)
    harness.broker.join(harness.queue, timeout=60_000)
    assert sorted(done) == list(range(5))
    harness.stop()

    def collect(batch: list[dict[str, int]]) -> None:
        done.extend(part["number"] for part in batch)

    many = harness.actor(collect, batch_size=10, batch_wait=timedelta(milliseconds=400))
    done.clear()
    for number in range(7):
        many.send(number=number)
    harness.start(threads=1)
    harness.broker.join(harness.queue, timeout=60_000)
    assert sorted(done) == list(range(7))


def test_a_join_ends_at_its_timeout(harness: Harness) -> None:
    go, began = Event(), Event()

    def work() -> None:
        began.set()
        go.wait(60)

    actor = harness.actor(work)
    actor.send()
    harness.start(threads=1)
    assert began.wait(60)
    with pytest.raises(QueueJoinTimeout, match=f"expected the queue '{harness.queue}' to be empty"):
        harness.broker.join(harness.queue, timeout=300)
    go.set()
    harness.broker.join(harness.queue, timeout=60_000)


def test_join_takes_the_arguments_of_every_broker_of_dramatiq(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[bool] = []
    is_drained = harness.broker.is_drained

    def noted(queue_name: str) -> bool:
        checks.append(is_drained(queue_name))
        return checks[-1]

    monkeypatch.setattr(harness.broker, "is_drained", noted)
    harness.actor(print).send()
    harness.start()
    harness.broker.join(harness.queue, interval=10, timeout=60_000)
    checks.clear()
    harness.broker.join(harness.queue, min_successes=5, idle_time=10, timeout=60_000)
    if not isinstance(harness.broker, MemoryBroker):  # which is told when its queue is empty
        assert checks == [True] * 5


def test_a_join_without_time_between_its_checks_has_no_limit(harness: Harness) -> None:
    is_late = Event()
    harness.actor(lambda: is_late.wait(60), actor_name="slow").send()
    harness.actor(lambda: is_late.set(), actor_name="late").send_with_options(delay=300)
    harness.start()
    harness.broker.join(harness.queue, idle_time=0)
    assert is_late.is_set()
    assert harness.is_empty()


def test_a_join_for_an_unknown_queue_is_refused(harness: Harness) -> None:
    with pytest.raises(QueueNotFound, match="no-such-queue"):
        harness.broker.join("no-such-queue")


def test_a_join_that_fails_fast_raises_the_error_of_the_dead_letter(harness: Harness) -> None:
    def fail() -> None:
        raise ValueError("the text may be personal data")

    harness.actor(fail, policy=SOON.but(max_attempts=1)).send()
    harness.start()
    harness.broker.join(harness.queue, timeout=60_000, fail_fast=False)
    is_in_memory = isinstance(harness.broker, MemoryBroker)
    kind, text = (
        (ValueError, "the text")
        if is_in_memory
        else (DeadLettered, r"^fail \(.*\) was dead-lettered after attempt 1 .*: ValueError")
    )
    with pytest.raises(kind, match=text):
        harness.broker.join(harness.queue, timeout=60_000, fail_fast=True)
    if is_in_memory:  # as Dramatiq's StubBroker
        with pytest.raises(ValueError, match="the text"):
            harness.broker.join(harness.queue)
    else:
        harness.broker.join(harness.queue)
