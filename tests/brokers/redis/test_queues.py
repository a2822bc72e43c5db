"""Queues on Redis: names, priorities, pauses, plain jobs, purges, stock producers."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker as StockBroker

from formrelay.brokers.redis.broker import RedisBroker
from formrelay.brokers.redis.in_flight import run_exchange
from formrelay.brokers.settlement import Settlement
from formrelay.core.errors import ConfigError, InvalidJob, SinkTransient
from formrelay.core.retry import RetryPolicy, Schedule
from tests.support.harness import Harness
from tests.support.waiting import wait_until

pytestmark = pytest.mark.redis

SOON = RetryPolicy(
    max_attempts=3, jitter=0, backoff=Schedule((timedelta(0), timedelta(milliseconds=100)))
)


# -- names --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("webhooks.dead", "end in '.dead'"),
        ("webhooks.DQ", "end in '.DQ'"),
        ("webhooks.DQ.msgs", "end in '.msgs'"),
        ("webhooks.p9", "end in '.p9'"),
        ("__workers__", "begin with '__'"),
    ],
)
def test_a_queue_named_like_a_key_is_refused(broker: RedisBroker, name: str, form: str) -> None:
    with pytest.raises(ConfigError, match=f"expected a queue name that does not {form}, got '"):
        dramatiq.actor(print, actor_name="work", broker=broker, queue_name=name)
    assert broker.queues == set()


def test_every_key_of_a_queue_is_reserved(broker: RedisBroker) -> None:
    keys = {*broker.keys.of("q"), broker.keys.stock_delayed("q"), broker.keys.stock_dead("q")}
    names = {key.removeprefix("dramatiq:") for key in (*keys, *broker.keys.priority_lists("q"))}
    for name in names - {"q"}:
        with pytest.raises(ConfigError):
            broker.declare_queue(name)


# -- priorities, pause, inbox ---------------------------------------------------------------


def test_higher_priorities_run_first_and_equal_ones_in_order(harness: Harness) -> None:
    ran: list[tuple[int, int]] = []
    actor = harness.actor(lambda level, number: ran.append((level, number)), actor_name="note")
    for number in range(3):
        for level in (0, 3, 9):
            actor.send_with_options(args=(level, number), broker_priority=level)
    harness.start(threads=1)
    wait_until(lambda: len(ran) == 9)
    assert ran == [(level, number) for level in (9, 3, 0) for number in range(3)]
    wait_until(harness.is_empty)


def test_a_retried_message_keeps_its_priority(harness: Harness, broker: RedisBroker) -> None:
    ran: list[str] = []

    def work(name: str) -> None:
        ran.append(name)
        if ran.count("urgent") == 1 and name == "urgent":
            raise SinkTransient

    actor = harness.actor(work, policy=SOON)
    actor.send_with_options(args=("urgent",), broker_priority=9)
    harness.start(threads=1)
    wait_until(lambda: ran == ["urgent"])
    harness.stop()
    for number in range(20):
        actor.send(f"plain {number}")
    until = time.monotonic() + 0.2  # due by then
    wait_until(lambda: time.monotonic() > until)
    harness.start(threads=1)
    wait_until(lambda: len(ran) == 22)
    assert ran[1] == "urgent"
    wait_until(harness.is_empty)
    assert not broker.client.exists(broker.keys.priorities(harness.queue))


@pytest.mark.parametrize("level", [-1, 10, "9", 2.5])
def test_a_priority_out_of_range_is_refused(harness: Harness, level: object) -> None:
    actor = harness.actor(print, actor_name="note")
    with pytest.raises(InvalidJob, match="broker_priority to be a whole number from 0 to 9"):
        actor.send_with_options(broker_priority=level)
    assert harness.is_empty()


def test_no_worker_fetches_from_a_paused_queue(harness: Harness, broker: RedisBroker) -> None:
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="note")
    harness.start()
    broker.inspector.pause(harness.queue)
    actor.send(1)
    calls, began = commands(broker), time.monotonic()
    wait_until(lambda: time.monotonic() > began + 0.6)
    assert ran == []
    # The consumer sleeps instead of polling.
    assert commands(broker) - calls < 500 * (time.monotonic() - began)
    broker.inspector.resume(harness.queue)
    wait_until(lambda: ran == [1])


def commands(broker: RedisBroker) -> int:
    return int(broker.client.info("stats")["total_commands_processed"])


def test_a_plain_job_in_the_inbox_reaches_its_actor_once(
    harness: Harness, broker: RedisBroker
) -> None:
    ran: list[object] = []
    harness.actor(lambda payload, metadata: ran.append(payload), actor_name="a", job_type="a.b")
    for number in range(3):
        job = {"type": "a.b", "payload": number, "metadata": {}}
        broker.client.rpush(broker.keys.inbox(harness.queue), json.dumps(job))
    assert broker.counts(harness.queue).waiting == 3
    harness.start()
    wait_until(lambda: sorted(ran) == [0, 1, 2])
    wait_until(harness.is_empty)


def test_a_plain_job_keeps_its_id_through_its_attempts(
    harness: Harness, broker: RedisBroker
) -> None:
    from dramatiq.middleware import CurrentMessage

    ids: list[str] = []

    def fail(payload: object, metadata: object) -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        ids.append(message.message_id)
        raise SinkTransient

    harness.actor(fail, job_type="a.b", policy=SOON)
    broker.client.rpush(broker.keys.inbox(harness.queue), b'{"type": "a.b", "payload": 1}')
    harness.start()
    (letter,) = wait_until(harness.dead)
    assert ids == [letter.id] * 3


def test_ids_of_plain_jobs_do_not_repeat_after_a_flush_of_redis(
    harness: Harness, broker: RedisBroker
) -> None:
    # An event without an id gets the id of its job.
    from dramatiq.middleware import CurrentMessage

    ids: list[str] = []

    def work(payload: object, metadata: object) -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        ids.append(message.message_id)

    harness.actor(work, job_type="a.b")
    for _ in range(2):
        for _ in range(3):
            broker.client.rpush(broker.keys.inbox(harness.queue), b'{"type": "a.b", "payload": 1}')
        before = len(ids)
        harness.start()
        wait_until(lambda before=before: len(ids) == before + 3)  # type: ignore[misc]
        wait_until(harness.is_empty)
        harness.stop()
        broker.client.delete(broker.keys.sequence())
    assert len(set(ids)) == 6
    assert all(id.removeprefix("inbox-").isdigit() for id in ids)


# -- purge ----------------------------------------------------------------------------------


def test_a_purge_deletes_all_messages_but_those_in_flight_with_their_keys(
    harness: Harness, broker: RedisBroker
) -> None:
    actor = harness.actor(print, actor_name="note")
    keys, queue, client = broker.keys, harness.queue, broker.client
    actor.send("in flight")
    _, fetched, _ = run_exchange(broker.commands, queue, 1, Settlement())
    broker.enqueue_many(actor.message(number) for number in range(1_500))
    broker.enqueue_many(
        actor.message_with_options(args=(number,), broker_priority=number % 10)
        for number in range(1_500)
    )
    for number in range(1_500):
        actor.send_with_options(args=(number,), broker_priority=5, delay=60_000)
    StockBroker(client=client).enqueue(actor.message("stock's"), delay=60_000)
    client.rpush(keys.inbox(queue), b"{}")
    client.rpush(keys.old_inbox(queue), b"{}")
    client.hset(keys.suspects(queue), client.lindex(keys.waiting(queue), 7), 1)
    assert broker.inspector.purge(queue) == 3 * 1_500 + 3
    assert client.hgetall(keys.bodies(queue)) == {fetched[0][0]: fetched[0][1]}
    left = {key.decode() for key in client.keys(f"*{queue}*")} - {keys.wake(queue)}
    assert left == {keys.bodies(queue), keys.in_flight(broker.commands.worker_id, queue)}
    run_exchange(broker.commands, queue, 0, Settlement(), [fetched[0][0]])
    assert broker.counts(queue).waiting == 1


def test_a_purge_keeps_later_messages_and_an_interrupted_purge_is_finished(
    harness: Harness, broker: RedisBroker
) -> None:
    actor = harness.actor(print, actor_name="note")
    broker.enqueue_many(actor.message(number) for number in range(3_000))
    first = broker.commands.run("flush", harness.queue, [1])
    assert first == [1, 1, 3_000]  # and then its process was killed
    actor.send("after it")
    counts = broker.counts(harness.queue)
    assert (counts.waiting, counts.in_flight) == (1, 0)
    for _ in range(3):  # the workers' recovery
        broker.commands.recover(harness.queue)
    assert broker.client.hlen(broker.keys.bodies(harness.queue)) == 1
    assert broker.commands.run("flush", harness.queue, [1]) == [1, 0, 1]


# -- producers of stock Dramatiq --------------------------------------------------------------


def test_delayed_messages_of_a_stock_producer_run_when_due(
    harness: Harness, redis_url: str
) -> None:
    ran: list[tuple[str, float]] = []
    actor = harness.actor(lambda name: ran.append((name, time.time())), actor_name="note")
    stock = StockBroker(url=redis_url)
    stock.enqueue(actor.message("now"))
    sent = time.time()
    stock.enqueue(actor.message("later"), delay=700)  # a list, where formrelay has a sorted set
    harness.start()
    wait_until(lambda: len(ran) == 2)
    assert [name for name, _ in ran] == ["now", "later"]
    assert ran[1][1] - sent >= 0.7
    wait_until(harness.is_empty)


def test_ids_that_are_not_utf_8_work(harness: Harness, broker: RedisBroker) -> None:
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="note")
    keys, queue = broker.keys, harness.queue
    broker.client.hset(keys.bodies(queue), b"\xff\xfe", actor.message(1).encode())
    broker.client.rpush(keys.waiting(queue), b"\xff\xfe")
    broker.client.hset(keys.bodies(queue), b"\xfe", b"no message")
    broker.client.rpush(keys.waiting(queue), b"\xfe")
    actor.send(2)
    harness.start()
    wait_until(lambda: sorted(ran) == [1, 2])
    (letter,) = wait_until(harness.dead)
    assert broker.delete_dead(queue, letter.id)
    wait_until(harness.is_empty)
