"""The consumer: fast for short jobs, within the concurrency limit, always connected."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from threading import Condition, Event
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.errors import BrokerUnavailable
from formrelay.brokers.rabbitmq import subscription as subscriptions
from formrelay.brokers.rabbitmq import topology
from formrelay.brokers.rabbitmq.subscription import MAX_BYTES, MeanSize
from formrelay.core.errors import SinkTransient
from formrelay.core.retry import RetryPolicy, Schedule
from tests.brokers.rabbitmq.conftest import MakeHarness, consumer_of, cut
from tests.support.harness import Harness
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.shared_vhost]


def test_short_jobs_are_prefetched_and_each_runs_once(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine may not run the 1,000 jobs a second that otherwise count as short.
    monkeypatch.setattr(subscriptions, "_LEVELS", ((0, 0), (50, 64), (4_000, 400)))
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="collect")
    harness.broker.enqueue_many(actor.message(number) for number in range(5_000))
    harness.start()
    subscription = consumer_of(harness)._subscription
    assert subscription is not None
    wait_until(lambda: subscription.is_busy)
    wait_until(lambda: len(ran) >= 5_000)
    wait_until(lambda: not subscription.is_busy)  # after the queue is empty
    harness.stop()
    assert Counter(ran) == dict.fromkeys(range(5_000), 1)
    assert harness.is_empty()


def test_one_thread_runs_jobs_in_order_while_the_prefetch_changes(harness: Harness) -> None:
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="collect")
    harness.broker.enqueue_many(actor.message(number) for number in range(12_000))
    harness.start(threads=1)
    consumer = consumer_of(harness)
    subscription = consumer._subscription
    assert subscription is not None
    levels = [4_500.0, 0.0]
    original = subscription.adjust_prefetch

    def restless(_rate: float) -> None:
        original(levels[len(ran) // 64 % 2])

    subscription.adjust_prefetch = restless  # type: ignore[method-assign]
    wait_until(lambda: len(ran) >= 12_000)
    assert ran == list(range(12_000))
    assert consumer._subscription is subscription  # RabbitMQ did not end the connection


def test_pausing_the_worker_runs_no_short_job_twice(harness: Harness) -> None:
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="collect")
    harness.start()
    assert harness.worker is not None
    for number in range(2):
        harness.broker.enqueue_many(actor.message(number * 400 + i) for i in range(400))
        wait_until(lambda count=number * 400 + 30: len(ran) >= count)
        harness.worker.pause()
        harness.worker.resume()
    wait_until(lambda: len(ran) >= 800)
    harness.stop()
    assert Counter(ran) == dict.fromkeys(range(800), 1)


def test_long_jobs_are_left_to_other_processes(make_harness: MakeHarness) -> None:
    gate = Event()
    first, second = make_harness(), make_harness()
    seen: list[list[int]] = [[], []]
    for harness, numbers in zip((first, second), seen, strict=True):

        def work(number: int, numbers: list[int] = numbers) -> None:
            numbers.append(number)
            gate.wait(10)

        actor = harness.actor(work)
    harness.broker.enqueue_many(actor.message(number) for number in range(20))
    first.start(threads=4)
    wait_until(lambda: len(seen[0]) == 4)
    second.start(threads=4)
    wait_until(lambda: len(seen[1]) == 4)
    gate.set()
    wait_until(lambda: len(seen[0]) + len(seen[1]) == 20)


def test_lost_connections_do_not_exceed_the_concurrency_of_a_queue(
    make_harness: MakeHarness, unique: str
) -> None:
    options = BrokerOptions(heartbeat_timeout=timedelta(seconds=1), concurrency={unique: 3})
    harness = make_harness(options=options)
    changed = Condition()
    running, most, done = 0, 0, set[int]()

    def work(number: int) -> None:
        nonlocal running, most
        with changed:
            running += 1
            most = max(most, running)
            changed.notify_all()
            changed.wait_for(lambda: running >= 3, timeout=0.05)
            running -= 1
            done.add(number)

    actor = harness.actor(work)
    harness.broker.enqueue_many(actor.message(number) for number in range(90))
    harness.start(threads=8)
    for share in (10, 30, 50):
        wait_until(lambda share=share: len(done) >= share)
        cut(harness)
    wait_until(lambda: len(done) == 90)
    wait_until(harness.is_empty)
    assert most == 3
    assert harness.dead() == []


def test_a_lost_connection_is_replaced_within_a_second(harness: Harness) -> None:
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="collect")
    harness.start()
    consumer_of(harness)
    took = []
    for number in range(3):  # the best of three: a machine may be busy
        start = time.monotonic()
        cut(harness)
        actor.send(number)
        wait_until(lambda number=number: number in ran)
        took.append(time.monotonic() - start)
    assert min(took) < 1


def test_a_queue_deleted_while_its_worker_runs_is_declared_again(
    harness: Harness, channel: Any
) -> None:
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="collect")
    harness.start()
    actor.send(1)
    wait_until(lambda: ran == [1])
    consumer = consumer_of(harness)
    subscription = consumer._subscription
    channel.queue_delete(harness.queue)
    wait_until(lambda: consumer._subscription not in (None, subscription))
    actor.send(2)
    wait_until(lambda: ran == [1, 2])


def test_an_idle_worker_starts_a_job_at_once(harness: Harness) -> None:
    started: list[float] = []
    actor = harness.actor(lambda: started.append(time.monotonic()), actor_name="note")
    harness.start(timeout=1_000)
    consumer_of(harness)
    waits = []
    for count in range(1, 21):
        sent = time.monotonic()
        actor.send()
        wait_until(lambda count=count: len(started) == count)
        waits.append(started[-1] - sent)
    assert sorted(waits)[5] < 0.05  # a busy machine delays some


def test_higher_priorities_run_first(make_harness: MakeHarness) -> None:
    harness = make_harness(max_priority=9)
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="collect")
    for priority in (0, 5, 9, 1, 7):
        for _ in range(3):
            actor.send_with_options(args=(priority,), broker_priority=priority)
    consumer = harness.broker.consume(harness.queue, prefetch=1, timeout=200)
    order: list[int] = []
    for message in consumer:
        if message is None:
            break
        order.append(message.args[0])
        consumer.ack(message)
    consumer.close()
    assert order == sorted(order, reverse=True)
    assert len(order) == 15


def test_a_retried_message_keeps_its_priority(make_harness: MakeHarness, channel: Any) -> None:
    harness = make_harness(max_priority=9)
    policy = RetryPolicy(max_attempts=2, backoff=Schedule((timedelta(0), timedelta(hours=1))))

    def fail() -> None:
        raise SinkTransient("away")

    actor = harness.actor(fail, policy=policy)
    harness.start()
    actor.send_with_options(broker_priority=7)
    delay_queues = [topology.delay_name(bit) for bit in range(topology.DELAY_QUEUES)]

    def waiting() -> Any:
        for delay_queue in delay_queues:
            method, properties, _ = channel.basic_get(delay_queue, auto_ack=True)
            # Other tests of the file left messages there.
            if method is not None and method.routing_key.endswith(f".{harness.queue}"):
                return properties
        return None

    assert wait_until(waiting).priority == 7


def test_a_dead_letter_that_is_refused_is_written_later(harness: Harness) -> None:
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="collect")
    harness.inject(b"not JSON")
    actor.send(1)
    write, failures = harness.broker.client.write, [2]  # type: ignore[attr-defined]

    def write_later(*arguments: Any) -> None:
        if failures[0]:
            failures[0] -= 1
            raise BrokerUnavailable("not now")
        write(*arguments)

    harness.broker.client.write = write_later  # type: ignore[attr-defined]
    harness.start()
    wait_until(lambda: ran == [1])
    assert len(wait_until(harness.dead)) == 1


def test_a_batch_queue_prefetches_fewer_large_messages(harness: Harness) -> None:
    is_over = Event()
    done: list[int] = []

    def work(batch: list[dict[str, Any]]) -> None:
        is_over.wait(30)
        done.append(len(batch))

    actor = harness.actor(work, batch_size=10_000, batch_wait=timedelta(milliseconds=100))
    harness.broker.options = replace(harness.broker.options, max_message_bytes=1_000_000)
    body = "x" * 200_000
    harness.broker.enqueue_many(actor.message(text=body) for _ in range(800))
    harness.start(threads=2)
    subscription = consumer_of(harness)._subscription
    assert subscription is not None
    # 32 MiB, and those that were received while their size was unknown.
    wait_until(lambda: subscription.connection.delivered >= 200)
    assert harness.broker.counts(harness.queue).waiting >= 800 - 200 - 200
    is_over.set()
    wait_until(lambda: sum(done) == 800)
    wait_until(harness.is_empty)


def test_a_batch_queue_prefetches_two_batches_of_small_messages(harness: Harness) -> None:
    is_over = Event()
    done: list[int] = []

    def work(batch: list[dict[str, Any]]) -> None:
        is_over.wait(30)
        done.append(len(batch))

    actor = harness.actor(work, batch_size=2_000, batch_wait=timedelta(seconds=2))
    harness.broker.enqueue_many(actor.message(number=number) for number in range(5_000))
    harness.start(threads=1)
    consumer = consumer_of(harness)
    wait_until(lambda: consumer._unacked.count == 4_000 or consumer._subscription.prefetch == 4_000)
    is_over.set()
    wait_until(lambda: sum(done) == 5_000)
    assert max(done) == 2_000


@pytest.mark.slow
@given(st.lists(st.integers(0, 2_000_000), min_size=200, max_size=400))
def test_prefetched_bytes_stay_near_the_maximum(sizes: list[int]) -> None:
    mean_size = MeanSize()
    changes = 0
    before = mean_size.max_prefetch
    for size in sizes:
        mean_size.add(size)
        changes += mean_size.max_prefetch != before
        before = mean_size.max_prefetch
        assert mean_size.max_prefetch >= 1
    mean = max(1.0, mean_size._mean)
    assert mean_size.max_prefetch * mean <= 2 * MAX_BYTES or mean_size.max_prefetch <= 200
    assert changes < len(sizes) / 4


def test_the_prefetch_follows_the_size_of_messages() -> None:
    mean_size = MeanSize()
    for size, least, most in ((300, 20_000, 10**9), (1_000_000, 1, 66), (300, 20_000, 10**9)):
        for _ in range(1_000):
            mean_size.add(size)
        assert least <= mean_size.max_prefetch <= most
