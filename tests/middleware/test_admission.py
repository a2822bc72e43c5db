"""A suspect (its worker may have been killed by it) is counted on the broker before it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.middleware import SkipMessage

from formrelay.brokers import BrokerOptions
from formrelay.brokers.errors import BrokerRefused, BrokerUnavailable
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.errors import BrokerError, DeferReason
from formrelay.core.failure import Reason
from formrelay.core.outcomes import Defer
from formrelay.middleware.admission import Admission
from formrelay.middleware.delivery import Batch, Delivery
from tests.support.harness import Harness
from tests.support.waiting import wait_until

NOBODY = "worker-that-died"


def delivery(number: int = 0) -> Delivery:
    return Delivery(Message("q", "act", (), {"number": number}, {}, f"id-{number}", 0), number)


@pytest.fixture
def broker(middleware_broker_url: str) -> RedisBroker:
    return RedisBroker(middleware_broker_url)


def test_the_start_of_an_ordinary_message_is_recorded(broker: RedisBroker) -> None:
    one = delivery()
    assert one.started is None
    Admission().before_process_message(broker, one)
    assert one.started is not None
    assert one.outcome is None


def test_a_suspect_is_counted_before_it_runs(broker: RedisBroker) -> None:
    one, counted = delivery(), list[int]()
    one.count_quarantine_run = lambda: counted.append(1)
    Admission().before_process_message(broker, one)
    assert counted == [1]
    assert one.outcome is None


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), BrokerRefused("read-only")])
def test_a_suspect_that_cannot_be_counted_is_deferred_and_does_not_run(
    broker: RedisBroker, error: BrokerError
) -> None:
    def away() -> None:
        raise error

    one = delivery()
    one.count_quarantine_run = away
    with pytest.raises(SkipMessage):
        Admission().before_process_message(broker, one)
    reason = DeferReason.STORE_UNAVAILABLE
    assert one.outcome == Defer(timedelta(seconds=1), str(error), reason)
    assert not one.failed


def test_every_suspect_in_a_batch_is_counted(broker: RedisBroker) -> None:
    counted: list[str] = []
    parts = [delivery(number) for number in range(3)]
    parts[0].count_quarantine_run = lambda: counted.append("first")
    parts[2].count_quarantine_run = lambda: counted.append("third")
    batch = Batch.of(parts)
    Admission().before_process_message(broker, batch)
    assert counted == ["first", "third"]


def test_a_batch_without_suspects_is_not_a_suspect(broker: RedisBroker) -> None:
    assert Batch.of([delivery(0), delivery(1)]).count_quarantine_run is None


def test_messages_of_other_brokers_are_ignored(broker: RedisBroker) -> None:
    Admission().before_process_message(broker, dramatiq.MessageProxy(delivery().message))


# -- through a worker: messages of a dead worker --------------------------------------------


@pytest.fixture
def quick(harness: Harness) -> Harness:
    """The harness, with a heartbeat timeout of one second."""
    assert isinstance(harness.broker, RedisBroker)
    harness.broker.options = BrokerOptions(heartbeat_timeout=timedelta(seconds=1))
    harness.broker.commands.heartbeat_timeout = timedelta(seconds=1)
    return harness


LeaveInFlight = Callable[[dramatiq.Actor[..., object], int], None]


@pytest.fixture
def leave_in_flight(middleware_broker_url: str, quick: Harness) -> Iterator[LeaveInFlight]:
    """A function that leaves messages in flight, as a killed worker does."""
    dead = RedisBroker(middleware_broker_url)
    dead.commands.worker_id = NOBODY

    def leave(actor: dramatiq.Actor[..., object], count: int) -> None:
        for number in range(count):
            actor.send(number=number)
        dead.declare_actor(actor)
        consumer = dead.consume(quick.queue, prefetch=count, timeout=0)
        inner = getattr(consumer, "_inner", consumer)
        assert inner.receive(0) is not None
        dead.client.zadd(dead.keys.heartbeats(), {NOBODY: 1})  # last heartbeat in 1970

    yield leave
    dead.close()


def test_suspects_of_a_batch_actor_run_and_are_settled(
    quick: Harness, leave_in_flight: LeaveInFlight
) -> None:
    done: list[int] = []

    def collect(batch: list[dict[str, int]]) -> None:
        done.extend(part["number"] for part in batch)

    wait = timedelta(milliseconds=20)
    actor = quick.actor(collect, actor_name="act", batch_size=10, batch_wait=wait)
    leave_in_flight(actor, 5)
    quick.start()
    wait_until(lambda: sorted(done) == list(range(5)))
    wait_until(quick.is_empty)
    assert quick.dead() == []


def test_a_message_of_a_batch_actor_that_killed_all_workers_is_a_crash_loop(
    quick: Harness,
    leave_in_flight: LeaveInFlight,
) -> None:
    ran: list[object] = []
    wait = timedelta(milliseconds=20)
    actor = quick.actor(
        lambda batch: ran.extend(batch), actor_name="act", batch_size=10, batch_wait=wait
    )
    leave_in_flight(actor, 1)
    assert isinstance(quick.broker, RedisBroker)
    (message_id,) = quick.broker.client.hkeys(quick.broker.keys.bodies(quick.queue))
    quick.broker.client.hset(quick.broker.keys.suspects(quick.queue), message_id, 3)
    quick.start()
    (letter,) = wait_until(quick.dead)
    assert letter.failure.reason is Reason.CRASH_LOOP
    assert ran == []


def test_a_quarantine_run_is_counted_on_the_broker_while_it_runs(
    quick: Harness, leave_in_flight: LeaveInFlight
) -> None:
    counts: list[dict[str, int]] = []
    assert isinstance(quick.broker, RedisBroker)
    client, key = quick.broker.client, quick.broker.keys.suspects(quick.queue)

    def look(batch: list[dict[str, int]]) -> None:
        counts.append({k.decode(): int(v) for k, v in client.hgetall(key).items()})

    wait = timedelta(milliseconds=20)
    actor = quick.actor(look, actor_name="act", batch_size=10, batch_wait=wait)
    leave_in_flight(actor, 1)
    quick.start()
    (seen,) = wait_until(lambda: counts)
    wait_until(quick.is_empty)
    assert list(seen.values()) == [2], json.dumps(seen)  # the dead worker's, and this run
    assert client.hlen(key) == 0  # it did not kill this worker
