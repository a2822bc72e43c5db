"""formrelay takes over the queues of stock Dramatiq on RabbitMQ, with every message."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.rabbitmq import RabbitmqBroker as StockBroker
from pika import spec

from formrelay.brokers.errors import BrokerRefused, BrokerUnavailable
from formrelay.brokers.inspection import DeadFilter
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.rabbitmq.client import RabbitClient
from formrelay.brokers.rabbitmq.from_stock import TakenOver, take_over_queue
from tests.brokers.rabbitmq.conftest import MakeHarness
from tests.support.harness import Harness
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.shared_vhost]


class Stock:
    """Stock Dramatiq's broker with one actor, which always fails."""

    def __init__(self, url: str, queue: str) -> None:
        self.broker = StockBroker(url=url)
        make: Any = dramatiq.actor
        self.collect = make(
            self._fail, broker=self.broker, queue_name=queue, actor_name="collect", max_retries=0
        )
        self.failed: list[int] = []
        self.worker: dramatiq.Worker | None = None

    def _fail(self, number: int) -> None:
        self.failed.append(number)
        raise RuntimeError("boom")

    def start(self) -> None:
        self.worker = dramatiq.Worker(self.broker, worker_timeout=100, worker_threads=2)
        self.worker.start()

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.stop()
        self.worker = None

    def fill(self) -> list[str]:
        """Leave two dead, three delayed and 405 waiting messages; returns the ids of the dead."""
        dead = [self.collect.send(number).message_id for number in (1, 2)]
        self.start()
        wait_until(lambda: len(self.failed) == 2)
        self.stop()
        for number in range(3, 6):
            self.collect.send_with_options(args=(number,), delay=500)
        for number in range(6, 411):  # more than two chunks
            self.collect.send(number)
        return dead


@pytest.fixture
def stock(rabbitmq_url: str, unique: str) -> Iterator[Stock]:
    stock = Stock(rabbitmq_url, unique)
    yield stock
    stock.stop()
    stock.broker.close()


@pytest.fixture
def take_over(
    make_harness: MakeHarness, unique: str
) -> Callable[..., tuple[Harness, TakenOver | None]]:
    def take(**arguments: Any) -> tuple[Harness, TakenOver | None]:
        harness = make_harness(**arguments)
        return harness, take_over_queue(client_of(harness), unique)

    return take


def client_of(harness: Harness) -> RabbitClient:
    assert isinstance(harness.broker, RabbitBroker)
    return harness.broker.client


def exists(harness: Harness, *names: str) -> list[bool]:
    found = []
    with client_of(harness).connection() as connection:
        for name in names:
            declaration = spec.Queue.Declare(queue=name, passive=True)
            found.append(connection.find(declaration) is not None)
    return found


def runs_everything(harness: Harness, numbers: range) -> None:
    """Start a worker, and check that it runs each number."""
    ran: set[int] = set()
    lock = threading.Lock()

    def collect(number: int) -> None:
        with lock:
            ran.add(number)

    harness.actor(collect, actor_name="collect")
    harness.start()
    wait_until(lambda: ran >= set(numbers))
    assert ran == set(numbers)


def test_waiting_delayed_and_dead_messages_are_taken_over(
    stock: Stock, take_over: Any, unique: str
) -> None:
    dead = stock.fill()
    stock.broker.close()
    harness, found = take_over()
    assert found == TakenOver(unique, waiting=405, scheduled=3, dead=2)
    assert exists(harness, f"{unique}.DQ", f"{unique}.XQ", f"formrelay.stock.{unique}") == [
        False,
        False,
        False,
    ]
    letters = list(harness.broker.inspector.dead_letters(DeadFilter(queue=unique)))
    assert sorted(letter.id for letter in letters) == sorted(dead)
    for letter in letters:
        assert letter.failure is not None
        assert letter.failure.reason == "rejected"
        assert letter.died is not None
        assert letter.message.actor_name == "collect"
    runs_everything(harness, range(3, 411))
    assert take_over_queue(client_of(harness), unique) is None


def test_a_taken_over_dead_letter_is_replayed(stock: Stock, take_over: Any, unique: str) -> None:
    stock.fill()
    stock.broker.close()
    harness, _ = take_over()
    assert harness.broker.inspector.replay(DeadFilter(queue=unique)) == 2
    runs_everything(harness, range(1, 411))


def test_a_dry_run_counts_and_changes_nothing(
    stock: Stock, make_harness: MakeHarness, unique: str
) -> None:
    stock.fill()
    harness = make_harness()
    expected = TakenOver(unique, waiting=405, scheduled=3, dead=2)
    for _ in range(2):
        assert take_over_queue(client_of(harness), unique, dry_run=True) == expected
    assert stock.broker.get_queue_message_counts(unique) == (405, 3, 2)


def test_a_running_stock_worker_is_refused(
    stock: Stock, make_harness: MakeHarness, unique: str
) -> None:
    stock.start()
    client = client_of(make_harness())

    def refused() -> bool:
        try:
            take_over_queue(client, unique, dry_run=True)
        except BrokerRefused as error:
            return "stop every program" in str(error)
        return False

    wait_until(refused)


@pytest.mark.parametrize("is_published", [True, False])
@pytest.mark.parametrize("calls", [1, 3, 5])
def test_an_interrupted_run_is_repeated_without_loss(
    stock: Stock,
    take_over: Any,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
    calls: int,
    is_published: bool,
) -> None:
    """The connection is lost when a chunk is published, and before it is acknowledged."""
    stock.fill()
    stock.broker.close()
    publish, left = RabbitClient.publish, [calls]

    def interrupted(self: RabbitClient, messages: Any) -> None:
        left[0] -= 1
        if left[0] or is_published:
            publish(self, messages)
        if not left[0]:
            raise BrokerUnavailable("the connection is lost")

    monkeypatch.setattr(RabbitClient, "publish", interrupted)
    with pytest.raises(BrokerUnavailable, match="is lost"):
        take_over()
    harness, found = take_over()
    assert found is not None
    dead = {letter.id for letter in harness.broker.inspector.dead_letters(DeadFilter(queue=unique))}
    assert len(dead) == 2
    runs_everything(harness, range(3, 411))


def test_an_adopted_queue_stays(stock: Stock, take_over: Any, unique: str) -> None:
    stock.fill()
    stock.broker.close()
    harness, found = take_over(adopt=[unique])
    assert found == TakenOver(unique, waiting=0, scheduled=3, dead=2)
    assert exists(harness, unique, f"{unique}.DQ", f"{unique}.XQ") == [True, False, False]
    runs_everything(harness, range(3, 411))


def test_quorum_queues_are_replaced_too(
    stock: Stock, channel: Any, take_over: Any, unique: str
) -> None:
    """A virtual host can make quorum queues the default."""
    for name in (unique, f"{unique}.DQ", f"{unique}.XQ"):
        channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    message = stock.collect.message(1).encode()
    channel.basic_publish("", unique, message)
    channel.basic_publish("", f"{unique}.XQ", b"not JSON")
    harness, found = take_over()
    assert found == TakenOver(unique, waiting=1, scheduled=0, dead=1)
    assert harness.broker.counts(unique).dead == 1
    runs_everything(harness, range(1, 2))


def test_a_queue_without_those_of_stock_dramatiq_is_left_alone(
    channel: Any, take_over: Any, unique: str
) -> None:
    channel.queue_declare(unique, durable=True)
    channel.basic_publish("", unique, b"of another program")
    _, found = take_over()
    assert found is None
    assert channel.queue_declare(unique, passive=True).method.message_count == 1
