"""Settlements on Redis: what the server refuses, large backlogs, ids that occur twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits.backends import StubBackend

from formrelay.brokers.errors import BrokerRefused
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.brokers.redis.commands import QueueCommands
from formrelay.brokers.redis.in_flight import run_exchange
from formrelay.brokers.settlement import Settlement
from formrelay.core.errors import SinkPermanent, SinkTransient
from formrelay.core.failure import Reason
from formrelay.core.retry import RetryPolicy, Schedule
from tests.support.harness import Harness
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.redis

SOON = RetryPolicy(
    max_attempts=3, jitter=0, backoff=Schedule((timedelta(0), timedelta(milliseconds=100)))
)


# -- errors of the server -----------------------------------------------------------------------


def refuse_with_read_only(broker: RedisBroker) -> Callable[[], None]:
    broker.client.replicaof("127.0.0.1", 1)
    return lambda: broker.client.replicaof("NO", "ONE") and None


def refuse_without_replicas(broker: RedisBroker) -> Callable[[], None]:
    broker.client.config_set("min-replicas-to-write", 1)
    return lambda: broker.client.config_set("min-replicas-to-write", 0) and None


@pytest.mark.parametrize("refuse", [refuse_with_read_only, refuse_without_replicas])
@pytest.mark.parametrize("batches", [False, True], ids=["plain", "batches"])
def test_settlements_that_redis_refuses_are_repeated_without_loss(
    redis_server: RedisServer,
    unique: str,
    refuse: Callable[[RedisBroker], Callable[[], None]],
    batches: bool,
) -> None:
    broker = RedisBroker(redis_server.url)
    harness = Harness(broker, unique)
    ran: list[int] = []
    if batches:
        wait = timedelta(milliseconds=50)
        actor = harness.actor(
            lambda batch: ran.extend(part["number"] for part in batch),
            actor_name="note",
            batch_size=5,
            batch_wait=wait,
        )
    else:
        actor = harness.actor(lambda number: ran.append(number), actor_name="note")
    try:
        for number in range(20):
            actor.send(number=number)
        harness.start()
        wait_until(lambda: len(ran) >= 5)
        allow_again = refuse(broker)
        with pytest.raises(BrokerRefused, match=r"Redis at .* refused"):
            actor.send(number=99)
        until = time.monotonic() + 1
        wait_until(lambda: time.monotonic() > until)
        allow_again()
        for number in range(20, 40):
            actor.send(number=number)
        wait_until(lambda: set(range(40)) <= set(ran))
        wait_until(harness.is_empty)
    finally:
        harness.close()


def test_a_worker_suspended_for_long_does_not_recover_its_own_messages(
    harness: Harness, broker: RedisBroker
) -> None:
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="note")
    for number in range(5):
        actor.send(number)
    keys = broker.keys
    consumer = broker.consume(harness.queue, prefetch=5, timeout=100)
    first: Any = next(iter(consumer))
    # As if the process had been suspended since its last heartbeat.
    broker.client.zadd(keys.heartbeats(), {broker.commands.worker_id: 1})
    assert broker.commands.recover(harness.queue)[0] == 0
    assert broker.client.scard(keys.in_flight(broker.commands.worker_id, harness.queue)) == 5
    consumer.ack(first)
    consumer.close()


def test_a_large_backlog_is_fetched_in_replies_of_bounded_size(
    harness: Harness, broker: RedisBroker
) -> None:
    ran: list[int] = []
    actor = harness.actor(lambda number, _: ran.append(number), actor_name="note")
    broker.options = replace(broker.options, max_message_bytes=3_000_000)
    for number in range(8):
        actor.send(number, "x" * 2_000_000)
    _, fetched, _ = run_exchange(broker.commands, harness.queue, 100, Settlement())
    assert 1 <= len(fetched) < 8
    assert sum(len(body) for _, body, _ in fetched) <= 4 * 1024 * 1024
    assert broker.counts(harness.queue).waiting == 8 - len(fetched)
    run_exchange(broker.commands, harness.queue, 0, Settlement(), [id for id, _, _ in fetched])
    harness.start(threads=1)
    wait_until(lambda: ran == list(range(8)))  # none was lost or reordered


# -- several messages with one id ---------------------------------------------------------------


def test_two_messages_with_one_id_are_both_retried_and_dead_lettered(
    harness: Harness, broker: RedisBroker
) -> None:
    ran: list[int] = []

    def fail(number: int) -> None:
        ran.append(number)
        raise SinkTransient

    message = harness.actor(fail, policy=SOON).message(1)
    broker.enqueue(message)
    harness.start(threads=1)
    wait_until(lambda: ran == [1])
    broker.enqueue(message.copy(args=(2,)))
    wait_until(lambda: len(harness.dead()) == 2)
    assert sorted(ran) == [1, 1, 1, 2, 2, 2]


# -- outcomes ------------------------------------------------------------------------------


def test_a_single_outcome_is_sent_at_once(harness: Harness) -> None:
    """All threads are busy and the prefetch is full, so no fetch would take the outcome along."""
    go_on = threading.Event()

    def work(number: int) -> None:
        if number:
            go_on.wait(20)

    actor = harness.actor(work)
    for number in range(50):
        actor.send(number)
    harness.start(threads=4)

    def left() -> int:
        counts = harness.broker.counts(harness.queue)
        return counts.waiting + counts.in_flight

    wait_until(lambda: left() == 49, timeout=15)
    go_on.set()
    wait_until(harness.is_empty)


def test_outcomes_of_slow_jobs_are_sent_together(
    harness: Harness, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call for each outcome would cost as much as the jobs."""
    calls: list[str] = []
    real = QueueCommands.run

    def run(self: QueueCommands, script: str, *arguments: Any) -> Any:
        calls.append(script)
        return real(self, script, *arguments)

    monkeypatch.setattr(QueueCommands, "run", run)
    never, one_by_one = threading.Event(), threading.Lock()

    def ask() -> None:  # as a call of an API
        with one_by_one:
            never.wait(0.0015)

    actor = harness.actor(ask)
    broker.enqueue_many(actor.message() for _ in range(800))
    harness.start(threads=8)
    wait_until(harness.is_empty)
    assert calls.count("exchange") < 300


def test_outcomes_of_suspects_are_sent_at_once(
    harness: Harness, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Suspects run one at a time, so no other outcome can join."""
    monkeypatch.setattr("formrelay.brokers.redis.consumer._LINGER_SECONDS", 600)
    ran: list[int] = []
    actor = harness.actor(ran.append)
    for number in range(30):
        id = actor.send(number).message_id
        broker.client.hset(broker.keys.suspects(harness.queue), id, 1)
    harness.start(threads=8)
    wait_until(harness.is_empty)
    assert ran == list(range(30))


def test_a_batch_includes_all_waiting_messages_if_fetching_is_slower_than_batch_wait(
    harness: Harness, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formrelay.brokers.coalescing._MAX_WAIT_FACTOR", 100_000)
    batches: list[int] = []
    actor = harness.actor(
        lambda batch: batches.append(len(batch)),
        actor_name="collect",
        batch_size=5_000,
        batch_wait=timedelta(milliseconds=1),
    )
    broker.enqueue_many(actor.message(number=number) for number in range(5_000))
    harness.start()
    wait_until(harness.is_empty)
    assert batches == [5_000]


def test_large_undecodable_bytes_near_the_limit_of_redis_are_dead_lettered(
    harness: Harness, broker: RedisBroker
) -> None:
    client, keys = broker.client, broker.keys
    data = bytes(range(256)) * 90_000  # 23 MB, and as base64 31 MB
    limit = client.config_get("proto-max-bulk-len")["proto-max-bulk-len"]
    harness.inject(data)
    client.config_set("proto-max-bulk-len", 25_000_000)
    try:
        ran = threading.Event()
        actor = harness.actor(ran.set, actor_name="note")
        actor.send()
        harness.start()
        (letter,) = wait_until(harness.dead)
        assert ran.wait(60)  # the next message runs
        assert letter.failure.reason is Reason.UNDECODABLE
        assert client.hget(keys.dead_bodies(harness.queue), letter.id) == data
        harness.stop()
        assert broker.replay(harness.queue, letter.id)
        assert client.hget(keys.bodies(harness.queue), "injected") == data
    finally:
        client.config_set("proto-max-bulk-len", limit)


def test_a_message_whose_outcome_redis_refuses_blocks_no_other(
    harness: Harness, broker: RedisBroker, caplog: pytest.LogCaptureFixture
) -> None:
    client, keys, queue = broker.client, broker.keys, harness.queue
    ran: list[int] = []

    def fail(number: int) -> None:
        ran.append(number)
        if number % 2:
            raise SinkPermanent("no")

    actor = harness.actor(fail, actor_name="fail")
    client.set(keys.dead_bodies(queue), "of another type")
    for number in range(10):
        actor.send(number)
    harness.start(threads=2)
    wait_until(lambda: len(ran) == 10)
    # Finished messages are removed, and later messages run.
    wait_until(lambda: client.hlen(keys.bodies(queue)) == 5)
    for number in range(10, 30, 2):
        actor.send(number)
    wait_until(lambda: len(ran) == 20)
    wait_until(lambda: client.hlen(keys.bodies(queue)) == 5)
    assert client.zcard(keys.dead(queue)) == 0
    # One line a second, not one for each refused call.
    assert caplog.text.count("refused settled messages") <= 2
    client.delete(keys.dead_bodies(queue))
    wait_until(harness.is_empty)
    assert len(harness.dead()) == 5
    assert len(ran) == 20


def test_a_stopping_worker_requeues_a_message_whose_outcome_redis_refuses(
    harness: Harness, broker: RedisBroker, caplog: pytest.LogCaptureFixture
) -> None:
    client, keys, queue = broker.client, broker.keys, harness.queue

    def fail() -> None:
        raise SinkPermanent("no")

    actor = harness.actor(fail, actor_name="fail")
    client.set(keys.dead_bodies(queue), "of another type")
    actor.send()
    harness.start(threads=1)
    wait_until(lambda: "refused settled messages" in caplog.text)
    harness.stop()
    # The message waits unchanged, and is not counted as a suspect.
    assert client.llen(keys.waiting(queue)) == 1
    assert client.hlen(keys.suspects(queue)) == 0
    assert client.zcard(keys.heartbeats()) == 0


def test_a_group_callback_refused_by_redis_is_sent_later(
    harness: Harness, broker: RedisBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """The group's barrier counts each job once, so the hook cannot run a second time."""
    broker.add_middleware(GroupCallbacks(StubBackend()))
    called: list[str] = []

    def work(is_last: bool) -> None:
        if is_last:
            broker.client.config_set("maxmemory", 1)

    actor = harness.actor(work, actor_name="work")
    callback = harness.actor(lambda: called.append("callback"), actor_name="callback")
    group = dramatiq.group([actor.message(False), actor.message(True)], broker=broker)
    group.add_completion_callback(callback.message())
    group.run()
    try:
        harness.start(threads=1)
        wait_until(lambda: "the job is not settled yet" in caplog.text)
        assert called == []
    finally:
        broker.client.config_set("maxmemory", 0)
    wait_until(lambda: called == ["callback"])
    wait_until(harness.is_empty)
    assert harness.dead() == []
