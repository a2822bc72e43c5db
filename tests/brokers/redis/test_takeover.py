"""Redis: outcomes of a worker whose messages another worker has taken over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dramatiq
import pytest

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.errors import SinkTransient
from formrelay.core.failure import Failure, Reason
from formrelay.core.outcomes import DONE, Defer, Outcome, Retry
from formrelay.middleware.delivery import Batch
from tests.support.harness import Harness
from tests.support.waiting import wait_until

pytestmark = pytest.mark.redis


def fetched_by(broker: RedisBroker, queue: str) -> tuple[Any, list[Any]]:
    """A consumer and the deliveries that it has fetched."""
    consumer = broker.consume(queue, prefetch=10, timeout=100)
    return consumer, list(iter(lambda: consumer.receive(0), None))


def take_over(broker: RedisBroker, other: RedisBroker, queue: str) -> None:
    """Let ``other`` recover the messages of ``broker``, as if the latter's worker were frozen."""
    broker.client.zadd(broker.keys.heartbeats(), {broker.commands.worker_id: 1}, xx=True)
    other.commands.recover(queue)


@pytest.fixture
def other(redis_url: str) -> Iterator[RedisBroker]:
    """The broker of another worker."""
    other = RedisBroker(redis_url)
    yield other
    other.close()


DEFER_AT_ONCE = Defer(timedelta(0), "busy")
RETRY_AT_ONCE = Retry(
    timedelta(0), Failure.of(SinkTransient("away"), reason=Reason.PERMANENT, attempt=1, now=0)
)


def test_done_removes_a_message_that_was_taken_over_but_not_another_with_its_id(
    harness: Harness, broker: RedisBroker, other: RedisBroker
) -> None:
    actor = harness.actor(lambda _: None, actor_name="note")
    sent = {m.message_id: m for m in (broker.enqueue(actor.message(n)) for n in (1, 2))}
    consumer, ours = fetched_by(broker, harness.queue)
    take_over(broker, other, harness.queue)
    # The other worker has finished one of them, and another was sent with its id.
    other.declare_queue(harness.queue)
    theirs, (found,) = fetched_by(other, harness.queue)  # suspects come one at a time
    assert found.is_redelivered
    assert not ours[0].is_redelivered
    theirs.settle(found, DONE)
    theirs.close()
    other.enqueue(sent[found.message_id].copy(args=(3,)))
    for one in ours:
        consumer.settle(one, DONE)
    consumer._flush()
    left = broker.client.hkeys(broker.keys.bodies(harness.queue))
    assert left == [found.message_id.encode()]
    # The id of the removed message still waits, which is harmless.
    (late,) = fetched_by(broker, harness.queue)[1]
    assert late.args == (3,)


@pytest.mark.parametrize("size", [1, 3], ids=["one by one", "as a batch"])
def test_a_deferred_message_remembers_that_it_was_taken_over(
    harness: Harness, broker: RedisBroker, other: RedisBroker, size: int
) -> None:
    options: dict[str, Any] = {"batch_size": 3, "batch_wait": timedelta(0)} if size > 1 else {}
    for each in (broker, other):
        dramatiq.actor(
            lambda **_: None,
            actor_name="note",
            broker=each,
            queue_name=harness.queue,
            **options,
        )
    for number in range(size):
        broker.enqueue(broker.get_actor("note").message(number=number))
    consumer, (first,) = fetched_by(broker, harness.queue)
    consumer.settle(first, DEFER_AT_ONCE)  # a batch is stored as one message
    wait_until(lambda: consumer.receive(1))
    take_over(broker, other, harness.queue)
    theirs, (found,) = fetched_by(other, harness.queue)
    found.begin_quarantine_run()
    theirs.settle(found, DEFER_AT_ONCE)
    again = wait_until(lambda: theirs.receive(1))
    parts = again.parts if isinstance(again, Batch) else [again]
    assert [part.is_redelivered for part in parts] == [True] * size
    theirs.close()
    consumer.close()


@pytest.mark.parametrize("outcome", [DONE, RETRY_AT_ONCE], ids=["done", "retry"])
def test_the_outcome_of_an_earlier_delivery_does_not_settle_a_later_one(
    harness: Harness, broker: RedisBroker, other: RedisBroker, outcome: Outcome
) -> None:
    """Both deliveries are to the same worker: its message was taken over and came back."""
    actor = harness.actor(lambda _: None, actor_name="note")
    sent = broker.enqueue(actor.message(1))
    consumer, (early,) = fetched_by(broker, harness.queue)
    take_over(broker, other, harness.queue)
    other.declare_queue(harness.queue)
    theirs, (done,) = fetched_by(other, harness.queue)
    theirs.settle(done, DONE)
    theirs._flush()
    broker.enqueue(sent.copy(args=(2,)))
    late = consumer.receive(0)
    assert late.args == (2,)
    consumer.settle(early, outcome)
    consumer._flush()
    assert broker.counts(harness.queue).scheduled == 0
    consumer.settle(late, RETRY_AT_ONCE)
    again = consumer.receive(0)
    assert again.args == (2,)
    consumer.close()
    theirs.close()


def test_parts_of_a_batch_that_were_not_taken_over_are_requeued_unchanged(
    harness: Harness, broker: RedisBroker, other: RedisBroker
) -> None:
    actor = harness.actor(
        lambda batch: None, actor_name="note", batch_size=3, batch_wait=timedelta(0)
    )
    ids = [actor.send(number=number).message_id.encode() for number in range(3)]
    keys, client = broker.keys, broker.client
    consumer, (batch,) = fetched_by(broker, harness.queue)
    bodies = client.hgetall(keys.bodies(harness.queue))
    in_flight = keys.in_flight(broker.commands.worker_id, harness.queue)
    client.srem(in_flight, ids[1])
    consumer.settle(batch, RETRY_AT_ONCE)
    consumer._inner._flush()
    assert client.lrange(keys.waiting(harness.queue), 0, -1) == [ids[0], ids[2]]
    assert client.hgetall(keys.bodies(harness.queue)) == bodies
    assert not client.exists(keys.scheduled(harness.queue), in_flight)


def test_an_id_without_a_body_is_skipped_and_a_later_message_with_it_is_kept(
    harness: Harness, broker: RedisBroker
) -> None:
    keys, client = broker.keys, broker.client
    client.rpush(keys.waiting(harness.queue), "gone")
    actor = harness.actor(lambda _: None, actor_name="note")
    consumer, found = fetched_by(broker, harness.queue)
    assert found == []
    assert not client.exists(keys.in_flight(broker.commands.worker_id, harness.queue))
    sent = actor.message(1).copy(message_id="gone")
    broker.enqueue(sent)
    consumer._flush()
    assert client.hexists(keys.bodies(harness.queue), "gone")
    consumer.close()


def test_settling_works_when_redis_is_out_of_memory(harness: Harness, broker: RedisBroker) -> None:
    actor = harness.actor(lambda _: None, actor_name="note")
    actor.send(1)
    consumer, (delivery,) = fetched_by(broker, harness.queue)
    consumer.settle(delivery, Retry(timedelta(hours=1), RETRY_AT_ONCE.failure))
    broker.client.config_set("maxmemory", 1)
    try:
        consumer._flush()
    finally:
        broker.client.config_set("maxmemory", 0)
    assert broker.counts(harness.queue).scheduled == 1
    consumer.close()


# -- priorities ----------------------------------------------------------------------------------


def test_a_message_with_an_id_in_use_keeps_its_own_priority(
    harness: Harness, broker: RedisBroker
) -> None:
    """Also where one of them is scheduled."""
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="note")
    first = actor.message_with_options(args=(1,), broker_priority=2)
    broker.enqueue(first, delay=1)
    broker.enqueue(first.copy(args=(2,), options={"broker_priority": 7}), delay=1)
    broker.enqueue(first.copy(args=(3,), options={"broker_priority": 5}))
    keys, client, queue = broker.keys, broker.client, harness.queue
    assert sorted(client.hvals(keys.priorities(queue))) == [b"2", b"5", b"7"]
    wait_until(lambda: client.zcount(keys.scheduled(queue), 0, time.time() * 1000 - 5) == 2)
    consumer, found = fetched_by(broker, queue)
    assert [one.args[0] for one in found] == [2, 3, 1]
    # And when it is retried, whichever message has that id by now.
    for one in found:
        consumer.settle(one, RETRY_AT_ONCE)
    again = list(iter(lambda: consumer.receive(0), None))
    assert [one.args[0] for one in again] == [2, 3, 1]
    for one in again:
        consumer.settle(one, DONE)
    consumer._flush()
    assert not client.exists(keys.priorities(queue))
    consumer.close()


def test_a_call_executed_late_strands_no_message(redis_url: str, unique: str) -> None:
    options = BrokerOptions(heartbeat_timeout=timedelta(seconds=1))
    broker, ran = RedisBroker(redis_url, options=options), list[int]()
    harness = Harness(broker, unique)
    actor = harness.actor(lambda number: ran.append(number), actor_name="note")
    harness.start()
    actor.send(1)
    wait_until(lambda: ran == [1])
    broker.inspector.pause(unique)
    late = actor.send(2)
    # As a lost fetch does that Redis executes after the worker has listed its messages in flight.
    client, keys = broker.client, broker.keys
    client.lrem(keys.waiting(unique), 1, late.message_id)
    client.sadd(keys.in_flight(broker.commands.worker_id, unique), late.message_id)
    broker.inspector.resume(unique)
    wait_until(lambda: ran == [1, 2])
    wait_until(harness.is_empty)
    harness.close()


def test_a_finished_batch_that_was_taken_over_does_not_run_again(
    harness: Harness, broker: RedisBroker, other: RedisBroker
) -> None:
    actor = harness.actor(
        lambda batch: None,
        actor_name="note",
        batch_size=3,
        batch_wait=timedelta(0),
    )
    for number in range(3):
        actor.send(number=number)
    consumer, (batch,) = fetched_by(broker, harness.queue)
    assert batch.size == 3
    take_over(broker, other, harness.queue)
    consumer.settle(batch, DONE)
    consumer.receive(0)
    assert broker.client.hlen(broker.keys.bodies(harness.queue)) == 0


def test_a_frozen_worker_does_not_count_as_killed_by_its_messages(
    harness: Harness, broker: RedisBroker, other: RedisBroker
) -> None:
    actor = harness.actor(lambda _: None, actor_name="note")
    actor.send(1)
    consumer, (ours,) = fetched_by(broker, harness.queue)
    suspects = broker.keys.suspects(harness.queue)
    broker.inspector.pause(harness.queue)  # no worker fetches it again
    take_over(broker, other, harness.queue)
    other.commands.count_death(harness.queue, ours.tag)
    assert broker.client.hgetall(suspects) == {ours.tag: b"2"}
    for _ in range(2):  # the second time there is nothing to take back
        consumer._exchanged_at -= 3_600  # it was frozen
        consumer.receive(0)
        assert broker.client.hgetall(suspects) == {ours.tag: b"1"}
