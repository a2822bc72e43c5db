"""Stock Dramatiq and formrelay on the same Redis, and migrations in both directions."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker as StockBroker

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.errors import BrokerRefused, BrokerUnavailable
from formrelay.brokers.inspection import DeadFilter, State
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.brokers.redis.commands import QueueCommands
from formrelay.brokers.redis.in_flight import run_exchange
from formrelay.brokers.redis.to_stock import convert_queue, refuse_running_workers
from formrelay.brokers.settlement import Settlement
from formrelay.core.errors import SinkPermanent, SinkTransient
from formrelay.core.retry import RetryPolicy, Schedule
from tests.support.harness import Harness
from tests.support.waiting import wait_until

pytestmark = pytest.mark.redis

HOUR = 3_600_000
LATER = RetryPolicy(max_attempts=3, backoff=Schedule((timedelta(hours=1),)))


class Stock:
    """A stock broker on the same queue, whose maintenance runs when the test wants it."""

    def __init__(self, url: str, queue: str) -> None:
        self.queue = queue
        self.broker = StockBroker(url=url)
        self.worker: dramatiq.Worker | None = None

    def actor(self, function: Callable[..., Any], name: str) -> Any:
        make: Any = dramatiq.actor
        return make(function, broker=self.broker, queue_name=self.queue, actor_name=name)

    def maintain(self) -> None:
        """Run the maintenance that stock Dramatiq does in a random one of 1,000 commands."""
        self.broker.maintenance_chance = 1_000_000
        self.broker.do_fetch(self.queue, 0)

    def start(self) -> None:
        self.worker = dramatiq.Worker(self.broker, worker_timeout=100, worker_threads=2)
        self.worker.start()

    def close(self) -> None:
        if self.worker is not None:
            self.worker.stop()
        self.broker.close()


@pytest.fixture
def broker(redis_url: str) -> RedisBroker:
    return RedisBroker(redis_url, options=BrokerOptions(heartbeat_timeout=timedelta(seconds=1)))


@pytest.fixture
def stock(redis_url: str, unique: str) -> Iterator[Stock]:
    stock = Stock(redis_url, unique)
    yield stock
    stock.close()


# -- stock Dramatiq and formrelay side by side --------------------------------------------------


def test_messages_of_a_stock_producer_run_beside_our_scheduled_messages(
    harness: Harness, stock: Stock
) -> None:
    ran: list[str] = []
    ours = harness.actor(ran.append, actor_name="note")
    theirs = stock.actor(ran.append, "note")
    ours.send_with_options(args=("ours, far off",), delay=HOUR)
    theirs.send_with_options(args=("delayed",), delay=300)
    harness.start()
    theirs.send("at once")
    wait_until(lambda: set(ran) == {"delayed", "at once"})
    theirs.send_with_options(args=("delayed again",), delay=300)
    wait_until(lambda: "delayed again" in ran)
    assert harness.broker.counts(harness.queue).scheduled == 1


def test_delayed_messages_of_a_stock_producer_are_adopted_in_chunks(
    harness: Harness, stock: Stock, broker: RedisBroker
) -> None:
    ran: list[int] = []
    harness.actor(lambda number, _: ran.append(number), actor_name="note")
    theirs = stock.actor(print, "note")
    for number in range(1_100):
        theirs.send_with_options(args=(number, "x" * 1_000), delay=1)
    assert broker.counts(harness.queue).scheduled == 1_100
    harness.start()
    wait_until(lambda: len(ran) == 1_100)
    wait_until(harness.is_empty)
    assert sorted(ran) == list(range(1_100))


def test_a_worker_does_not_sleep_until_all_are_adopted(
    harness: Harness, stock: Stock, broker: RedisBroker
) -> None:
    harness.actor(print, actor_name="note")
    theirs = stock.actor(print, "note")
    for number in range(1_100):
        theirs.send_with_options(args=(number,), delay=HOUR)
    wait, _ = exchange(broker, harness.queue)
    assert wait == 0
    wait, _ = exchange(broker, harness.queue)
    assert HOUR - 60_000 < wait <= HOUR
    assert broker.client.zcard(broker.keys.scheduled(harness.queue)) == 1_100


def test_stock_maintenance_changes_no_dead_letter_and_no_message_in_flight(
    harness: Harness, stock: Stock, broker: RedisBroker
) -> None:
    def refuse() -> None:
        raise SinkPermanent("no")

    actor = harness.actor(refuse)
    actor.send()
    harness.start()
    (letter,) = wait_until(harness.dead)
    harness.stop()
    actor.send()
    keys, queue = broker.keys, harness.queue
    _, fetched = exchange(broker, queue)
    long_ago = time.time() * 1000 - 8 * 24 * HOUR
    broker.client.zadd(keys.dead(queue), {letter.id: long_ago})
    broker.client.zadd(
        keys.heartbeats(), {broker.commands.worker_id: long_ago}
    )  # a worker without a heartbeat for long
    stock.maintain()
    assert [one.id for one in harness.dead()] == [letter.id]
    assert broker.client.llen(keys.waiting(queue)) == 0
    assert broker.commands.in_flight(queue) == {fetched[0][0]}


def exchange(broker: RedisBroker, queue: str) -> Any:
    return run_exchange(broker.commands, queue, 10, Settlement())[:2]


def test_a_stock_process_is_not_listed_as_a_worker(harness: Harness, stock: Stock) -> None:
    harness.actor(print, actor_name="note")
    stock.actor(print, "note").send(1)
    assert harness.broker.inspector.workers() == []
    exchange(harness.broker, harness.queue)  # type: ignore[arg-type]
    (worker,) = harness.broker.inspector.workers()
    assert worker.id == harness.broker.commands.worker_id  # type: ignore[attr-defined]


def test_messages_of_a_dead_stock_worker_are_recovered(
    harness: Harness, stock: Stock, broker: RedisBroker
) -> None:
    ran: list[str] = []
    harness.actor(ran.append, actor_name="note")
    theirs, queue = stock.actor(print, "note"), harness.queue
    theirs.send("immediate")
    theirs.send_with_options(args=("delayed",), delay=200)
    assert stock.broker.do_fetch(queue, 10)
    assert stock.broker.do_fetch(f"{queue}.DQ", 10)
    assert broker.commands.recover(queue)[0] == 0  # it is alive
    (found,) = broker.inspector.browse(queue, State.IN_FLIGHT).entries
    assert found.worker == stock.broker.broker_id
    died = time.time() * 1000 - 61_000
    broker.client.zadd(broker.keys.stock_heartbeats(), {stock.broker.broker_id: died})
    assert broker.commands.recover(queue)[0] == 2
    harness.start()
    wait_until(lambda: sorted(ran) == ["delayed", "immediate"])
    wait_until(harness.is_empty)


def test_dead_letters_of_a_stock_worker_are_listed_replayed_and_kept(
    harness: Harness, stock: Stock, broker: RedisBroker
) -> None:
    ran: list[str] = []
    harness.actor(ran.append, actor_name="note")
    theirs, queue = stock.actor(print, "note"), harness.queue
    for name in ("first", "second"):
        id = theirs.send(name).options["redis_message_id"]
        stock.broker.do_fetch(queue, 1)
        stock.broker.do_nack(queue, id)
    assert broker.counts(queue).dead == 2
    letters = list(broker.inspector.dead_letters(DeadFilter(queue)))
    # Both may have been dead-lettered in the same millisecond.
    assert sorted(one.message.args for one in letters) == [("first",), ("second",)]
    long_ago = time.time() * 1000 - 8 * 24 * HOUR
    broker.client.zadd(broker.keys.dead(queue), {letters[0].id: long_ago})
    stock.maintain()
    assert broker.inspector.replay(DeadFilter(queue)) == 2
    harness.start()
    wait_until(lambda: sorted(ran) == ["first", "second"])


# -- an older formrelay -------------------------------------------------------------------------


def test_messages_of_an_older_version_are_adopted_while_it_still_sends(
    harness: Harness, broker: RedisBroker
) -> None:
    ran: list[str] = []
    actor = harness.actor(ran.append, actor_name="note")
    keys, queue, client = broker.keys, harness.queue, broker.client

    def write_as_before(id: str, due: float) -> None:
        client.hset(keys.scheduled_bodies(queue), id, actor.message(id).encode())
        client.zadd(keys.stock_delayed(queue), {id: due})

    write_as_before("far off", time.time() * 1000 + HOUR)
    write_as_before("soon", time.time() * 1000)
    trace = 'Traceback (most recent call last):\n  File "mail.py", line 5, in send\nKeyError: 7\n'
    dead = actor.message_with_options(args=("dead",), retries=2, traceback=trace)
    client.hset(keys.dead_bodies(queue), "dead", dead.encode())
    client.zadd(keys.stock_dead(queue), {"dead": time.time() * 1000})
    harness.start()
    wait_until(lambda: ran == ["soon"])
    (letter,) = harness.dead()
    assert (letter.id, letter.failure.error) == ("dead", "KeyError")
    assert letter.failure.where == ("mail.py:5 send",)
    write_as_before("soon too", time.time() * 1000)
    wait_until(lambda: ran == ["soon", "soon too"])
    assert broker.counts(queue).scheduled == 1
    assert client.zrange(keys.scheduled(queue), 0, -1) == [b"far off"]


def test_messages_of_a_dead_worker_of_an_older_version_are_recovered(
    harness: Harness, broker: RedisBroker
) -> None:
    ran: list[int] = []
    harness.actor(ran.append, actor_name="note").send(1)
    keys, queue, client = broker.keys, harness.queue, broker.client
    id = client.lpop(keys.waiting(queue))
    client.sadd(keys.in_flight("older", queue), id)
    client.sadd(keys.worker_queues("older"), queue)
    client.zadd(keys.stock_heartbeats(), {"older": time.time() * 1000})
    assert [one.id for one in broker.inspector.workers()] == ["older"]
    client.zadd(keys.stock_heartbeats(), {"older": time.time() * 1000 - 2_000})
    harness.start()
    wait_until(lambda: ran == [1])
    assert client.zcard(keys.stock_heartbeats()) == 0


# -- migration back to stock Dramatiq ----------------------------------------------------------


def test_a_stock_worker_runs_all_messages_that_are_given_back(
    harness: Harness, stock: Stock, broker: RedisBroker
) -> None:
    ran: list[Any] = []
    stock.actor(ran.append, "note")
    stock.actor(lambda payload, metadata: ran.append(payload), "job")
    actor = harness.actor(print, actor_name="note")
    harness.actor(print, actor_name="job", job_type="a.b")
    keys, queue = broker.keys, harness.queue
    for number in range(120):
        actor.send(number)
    for level in (3, 9, 3):
        actor.send_with_options(args=(f"priority {level}",), broker_priority=level)
    due = int(time.time() * 1000) + 3_000
    delayed = (actor.message_with_options(args=(f"delayed {n}",), eta=due) for n in range(60))
    broker.enqueue_many(delayed)
    for box in (keys.inbox(queue), keys.old_inbox(queue)):
        broker.client.rpush(box, json.dumps({"type": "a.b", "payload": box}))
    broker.client.rpush(keys.inbox(queue), b"no job")
    died_at = dead_worker(broker, queue)
    assert broker.counts(queue).waiting == 120 + 3 + 3 - died_at
    done = convert_queue(broker, queue)
    assert (done.waiting, done.scheduled, done.dead, done.undecodable) == (125, 60, 1, 1)
    first = broker.client.lindex(keys.waiting(queue), 0)
    assert b"priority 9" in broker.client.hget(keys.bodies(queue), first)
    stock.start()
    wait_until(lambda: len(ran) == 185)
    stock.broker.join(queue, timeout=10_000)
    assert {str(one) for one in ran} == {
        *map(str, range(120)),
        *("priority 3", "priority 9"),
        *(f"delayed {number}" for number in range(60)),
        *(keys.inbox(queue), keys.old_inbox(queue)),
    }
    left = {key.decode() for key in broker.client.keys(f"dramatiq:{queue}*")}
    assert left == {keys.stock_dead(queue), keys.dead_bodies(queue)}


def dead_worker(broker: RedisBroker, queue: str) -> int:
    """Fetch messages as a formrelay worker that then dies; returns their number."""
    other = RedisBroker(f"redis://{broker.where}/0")
    _, fetched = exchange(other, queue)
    broker.client.zadd(
        broker.keys.heartbeats(), {other.commands.worker_id: time.time() * 1000 - 5_000}
    )
    other.close()
    return len(fetched)


def test_frozen_batches_are_split_and_undecodable_bytes_stay_dead_letters(
    harness: Harness, stock: Stock, broker: RedisBroker
) -> None:
    ran: list[int] = []
    stock.actor(lambda number: ran.append(number), "collect")

    def fail(batch: list[Any]) -> None:
        raise SinkTransient

    actor = harness.actor(
        fail,
        actor_name="collect",
        batch_size=5,
        batch_wait=timedelta(hours=1),
        policy=LATER,
    )
    broker.enqueue_many(actor.message(number=number) for number in range(10))
    harness.inject(b"\x00 no message")
    harness.start()
    wait_until(lambda: broker.counts(harness.queue).scheduled == 2)
    (letter,) = wait_until(harness.dead)
    harness.stop()
    done = convert_queue(broker, harness.queue)
    assert (done.scheduled, done.split, done.dead) == (10, 2, 1)
    bodies = broker.client.hgetall(broker.keys.scheduled_bodies(harness.queue))
    assert len(bodies) == 10
    for id, body in bodies.items():
        options = json.loads(body)["options"]
        assert options["redis_message_id"] == id.decode()
        assert options["eta"] > time.time() * 1000
        assert options["retries"] == 1
        due = {**json.loads(body), "options": {**options, "eta": 1}}
        broker.client.hset(broker.keys.scheduled_bodies(harness.queue), id, json.dumps(due))
    stock.start()
    wait_until(lambda: sorted(ran) == list(range(10)))
    dead = broker.client.hgetall(broker.keys.dead_bodies(harness.queue))
    assert json.loads(dead[letter.id.encode()])["actor_name"] == "formrelay:quarantine"
    assert broker.client.zrange(broker.keys.stock_dead(harness.queue), 0, -1) == list(dead)
    stock.maintain()
    assert broker.client.hlen(broker.keys.dead_bodies(harness.queue)) == 1


def test_messages_given_back_can_be_adopted_again(harness: Harness, broker: RedisBroker) -> None:
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="note")
    actor.send(1)
    actor.send_with_options(args=(2,), delay=100)
    for _ in range(2):
        done = convert_queue(broker, harness.queue)
        assert (done.waiting, done.scheduled) == (1, 1)
    harness.start()
    wait_until(lambda: sorted(ran) == [1, 2])
    wait_until(harness.is_empty)


def test_giving_back_can_be_interrupted_anywhere_and_repeated(
    harness: Harness, stock: Stock, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    stock.actor(ran.append, "note")
    actor = harness.actor(print, actor_name="note")
    for number in range(0, 120, 2):
        actor.send(number)
        actor.send_with_options(args=(number + 1,), broker_priority=7)
        actor.send_with_options(args=(120 + number,), delay=1)
    real = QueueCommands.run
    for calls_left in (1, 2, 3, 4):
        left = [calls_left]

        def run(self: QueueCommands, script: str, *args: Any, left: list[int] = left) -> Any:
            left[0] -= script == "to_stock"
            if left[0] < 0:
                raise BrokerUnavailable("killed")
            return real(self, script, *args)

        monkeypatch.setattr(QueueCommands, "run", run)
        with pytest.raises(BrokerUnavailable):
            convert_queue(broker, harness.queue)
    monkeypatch.setattr(QueueCommands, "run", real)
    done = convert_queue(broker, harness.queue)
    assert (done.waiting, done.scheduled) == (120, 60)
    stock.start()
    wait_until(lambda: len(ran) == 180)
    assert sorted(ran) == [*range(120), *range(120, 240, 2)]


def test_nothing_is_given_back_while_a_worker_runs(harness: Harness, broker: RedisBroker) -> None:
    harness.actor(print, actor_name="note")
    harness.start()
    wait_until(broker.inspector.workers)
    with pytest.raises(BrokerRefused, match="expected no running worker"):
        refuse_running_workers(broker)
    harness.stop()
    refuse_running_workers(broker)
