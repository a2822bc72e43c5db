"""Poison messages are dead-lettered; other messages of the same workers never are."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pika
import pytest
from dramatiq.middleware import Middleware

from formrelay.brokers.errors import BrokerUnavailable
from formrelay.brokers.rabbitmq.crash_loops import DEATHS_HEADER, QUARANTINE_HEADER
from formrelay.core.failure import Reason
from tests.brokers.rabbitmq import crash_worker
from tests.brokers.rabbitmq.conftest import QUEUE_TYPES, MakeHarness, cut
from tests.support import fault_worker
from tests.support.checkout import ROOT
from tests.support.command import Program, start_python
from tests.support.harness import Harness
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.shared_vhost]


class Workers:
    """Worker processes on one queue of a given type; a test may kill them."""

    def __init__(self, harness: Harness, url: str, queue_type: str, file: Path) -> None:
        self.harness, self.file = harness, file
        self._command = [crash_worker.__file__, url, harness.queue, queue_type, str(file)]
        self._workers: list[Program] = []
        fault_worker.declare(harness.broker, harness.queue, str(file))

    def start(self) -> Program:
        log = self.file.with_suffix(f".{len(self._workers)}.log")
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        worker = start_python(*self._command, cwd=self.file.parent, env=env, log=log)
        self._workers.append(worker)
        wait_until(lambda: "ready\n" in log.read_text() or worker.poll() is not None)
        assert "ready\n" in log.read_text(), log.read_text()
        return worker

    def send(self, actor: str, *arguments: int) -> str:
        return self.harness.broker.actors[actor].send(*arguments).message_id

    def lines(self) -> Counter[str]:
        return Counter(self.file.read_text().split() if self.file.exists() else ())

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.wait()


@pytest.fixture(params=QUEUE_TYPES)
def workers(
    request: pytest.FixtureRequest, make_harness: MakeHarness, rabbitmq_url: str, tmp_path: Path
) -> Iterator[Workers]:
    harness = make_harness(queue_type=request.param)
    workers = Workers(harness, rabbitmq_url, request.param, tmp_path / "done")
    yield workers
    workers.close()


@pytest.mark.slow
def test_poison_messages_are_dead_lettered_and_all_others_run(
    workers: Workers,
) -> None:
    numbers = range(30)
    poisons = set()
    for number in numbers:
        workers.send("note", number, 5)
        if number % 15 == 5:
            poisons.add(workers.send("poison"))
    started = 0
    while len(workers.harness.dead()) < len(poisons):
        assert started < 12
        worker = workers.start()
        started += 1
        wait_until(
            lambda worker=worker: (
                worker.poll() is not None or len(workers.harness.dead()) == len(poisons)
            ),
            timeout=60,
        )
    letters = workers.harness.dead()
    assert {letter.id for letter in letters} == poisons
    assert {letter.failure.reason for letter in letters} == {Reason.CRASH_LOOP}
    workers.start()
    wait_until(lambda: {str(number) for number in numbers} <= set(workers.lines()))
    wait_until(workers.harness.is_empty)
    assert workers.lines()["poison"] <= 4 * len(poisons)
    assert len(workers.harness.dead()) == len(poisons)


@pytest.mark.slow
def test_workers_stopped_in_order_dead_letter_and_repeat_nothing(workers: Workers) -> None:
    for number in range(40):
        workers.send("note", number, 30)
    for share in (4, 8, 12, 16):
        worker = workers.start()
        wait_until(lambda share=share: len(workers.lines()) >= share)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    workers.start()
    wait_until(lambda: len(workers.lines()) == 40)
    wait_until(workers.harness.is_empty)
    assert workers.harness.dead() == []
    assert set(workers.lines().values()) == {1}


@pytest.mark.parametrize("queue_type", QUEUE_TYPES)
def test_lost_connections_dead_letter_nothing(make_harness: MakeHarness, queue_type: str) -> None:
    harness = make_harness(queue_type=queue_type)
    begun, finish = threading.Semaphore(0), threading.Event()
    ran: list[int] = []

    def work() -> None:
        begun.release()
        finish.wait(30)
        ran.append(1)

    harness.actor(work).send()
    harness.start(threads=8)
    for _ in range(5):  # more often than max_crash_deliveries
        assert begun.acquire(timeout=10)
        cut(harness)
    finish.set()
    wait_until(lambda: len(ran) >= 5)
    wait_until(harness.is_empty)
    assert harness.dead() == []


def test_paused_workers_dead_letter_nothing(harness: Harness) -> None:
    ran: list[int] = []
    actor = harness.actor(lambda number: ran.append(number), actor_name="collect")
    for number in range(10):
        actor.send(number)
    for _ in range(4):
        # Prefetched, not started, and requeued.
        consumer = harness.broker.consume(harness.queue, prefetch=10, timeout=200)
        first = next(consumer)
        assert first is not None
        consumer.requeue([first])
        consumer.close()
    harness.start()
    wait_until(lambda: set(ran) == set(range(10)))
    wait_until(harness.is_empty)
    assert harness.dead() == []


def publish_full_count(harness: Harness, channel: Any, quarantine_queue: str) -> str:
    """Publish a message with a full count, whose last run began in another process."""
    message = harness.broker.actors["collect"].message(1)
    harness.broker.counts(harness.queue)  # declares the queue
    properties = pika.BasicProperties(
        message_id=message.message_id,
        headers={DEATHS_HEADER: 3, QUARANTINE_HEADER: quarantine_queue},
    )
    channel.basic_publish("", harness.queue, message.encode(), properties, mandatory=True)
    return message.message_id


def test_a_message_with_a_full_count_runs_if_its_last_process_is_alive(
    harness: Harness, channel: Any
) -> None:
    ran: list[int] = []
    harness.actor(ran.append, actor_name="collect")
    channel.queue_declare("formrelay.quarantine.other")
    channel.basic_consume("formrelay.quarantine.other", lambda *_: None)
    publish_full_count(harness, channel, "formrelay.quarantine.other")
    harness.start()
    wait_until(lambda: ran == [1])
    wait_until(harness.is_empty)
    assert harness.dead() == []


def test_a_message_with_a_full_count_is_dead_lettered_if_its_last_process_is_gone(
    harness: Harness, channel: Any
) -> None:
    ran: list[int] = []
    harness.actor(ran.append, actor_name="collect")
    id = publish_full_count(harness, channel, "formrelay.quarantine.gone")
    harness.start()
    (letter,) = wait_until(harness.dead)
    assert (letter.id, letter.failure.reason) == (id, Reason.CRASH_LOOP)
    assert ran == []
    wait_until(harness.is_empty)


def test_the_final_run_has_no_other_message_beside_it(harness: Harness, channel: Any) -> None:
    lock = threading.Lock()
    running: set[int] = set()
    beside: list[set[int]] = []

    def work(number: int) -> None:
        with lock:
            running.add(number)
            if number == 0:
                beside.append(set(running))
        threading.Event().wait(0.05)
        with lock:
            if number == 0:
                beside.append(set(running))
            running.remove(number)

    actor = harness.actor(work)
    for number in range(1, 10):
        actor.send(number)
    message = actor.message(0)
    headers = {DEATHS_HEADER: 2, QUARANTINE_HEADER: "formrelay.quarantine.gone"}
    properties = pika.BasicProperties(message_id=message.message_id, headers=headers)
    channel.basic_publish("", harness.queue, message.encode(), properties, mandatory=True)
    for number in range(10, 20):
        actor.send(number)
    harness.start(threads=4)
    wait_until(lambda: len(beside) == 2)
    wait_until(harness.is_empty)
    assert beside == [{0}, {0}]


# -- suspects ----------------------------------------------------------------------------------


def send_suspect(harness: Harness, url: str, actor: Any) -> None:
    """Send a message and deliver it to a client that ends without settling it."""
    actor.send()
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        wait_until(lambda: connection.channel().basic_get(harness.queue)[0])


def test_a_suspect_that_waits_for_its_queue_delays_no_other_settlement(
    harness: Harness, rabbitmq_url: str
) -> None:
    events: list[str] = []

    class Watch(Middleware):
        def after_nack(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            events.append(f"{message.actor_name} is settled")

    async def suspect() -> None:
        events.append("suspect runs")

    async def fail() -> None:
        raise ValueError

    harness.broker.add_middleware(Watch())
    send_suspect(harness, rabbitmq_url, harness.actor(suspect, in_flight=5))
    harness.actor(fail, in_flight=5, max_retries=0).send()
    harness.start()
    wait_until(lambda: len(events) == 2)
    assert events == ["fail is settled", "suspect runs"]
    wait_until(harness.is_empty)


def test_a_suspect_of_a_lost_connection_publishes_no_copy(
    harness: Harness, rabbitmq_url: str
) -> None:
    """Otherwise each suspect would wait for its copy until the time-out."""
    send_suspect(harness, rabbitmq_url, harness.actor(lambda: None, actor_name="work"))
    consumer: Any = harness.broker.consume(harness.queue, prefetch=1, timeout=200)
    suspect = wait_until(lambda: next(consumer))
    consumer._subscription.connection._socket.shutdown(2)
    wait_until(lambda: next(consumer) is not None)  # redelivered on another connection
    with pytest.raises(BrokerUnavailable, match="redelivered"):
        suspect.count_quarantine_run()
    consumer.close()
