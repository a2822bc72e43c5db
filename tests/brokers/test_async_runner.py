"""AsyncRunner with outcomes that the broker refuses, requeued messages and a blocked event loop.

Uses a fake consumer for refused outcomes, since no real broker refuses a single one.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time
import weakref
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.middleware import CurrentMessage

from formrelay.brokers import loop_lag
from formrelay.brokers.consumer import RelayConsumer
from formrelay.brokers.errors import BrokerUnavailable
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.middleware.delivery import Delivery
from formrelay.testing import MemoryBroker
from tests.support.harness import Harness
from tests.support.waiting import wait_until


async def nothing() -> None:
    """Return at once."""


class Picky(RelayConsumer):
    """A consumer that refuses the outcome of message ``refused`` until the test accepts it."""

    def __init__(self, broker: RedisBroker, refused: str) -> None:
        super().__init__(broker, "q", prefetch=1, timeout_ms=100)
        self._refused = refused
        self.takes_all = threading.Event()
        self.settled: list[str] = []

    def settles_at_once(self, delivery: Delivery) -> bool:
        return False

    def ack(self, message: Any) -> None:
        if message.message_id == self._refused and not self.takes_all.is_set():
            raise BrokerUnavailable("not this one")
        self.settled.append(message.message_id)

    def receive(self, timeout: float) -> Delivery | None:
        return None

    def apply(self, settlement: Any, delivery: Delivery) -> None:
        """Receive nothing."""

    def requeue(self, messages: Any) -> None:
        """Requeue nothing."""


def test_a_refused_outcome_blocks_no_other_and_is_offered_again() -> None:
    broker = RedisBroker("redis://127.0.0.1:1/0")  # never called
    dramatiq.actor(nothing, actor_name="work", broker=broker, queue_name="q", in_flight=5)
    consumer = Picky(broker, refused="id_0")
    for number in range(50):
        message: Message[Any] = Message("q", "work", (), {}, {}, message_id=f"id_{number}")
        broker.async_runner.submit(Delivery(message, number), consumer)
    wait_until(lambda: len(consumer.settled) == 49)
    wait_until(lambda: broker.async_runner.running("q") == 1)
    consumer.takes_all.set()
    wait_until(lambda: "id_0" in consumer.settled)
    wait_until(lambda: broker.async_runner.running("q") == 0)
    broker.close()


def test_a_message_is_never_both_started_and_requeued() -> None:
    """The event loop starts messages while the consumer's thread requeues them."""
    broker = RedisBroker("redis://127.0.0.1:1/0")  # never called
    begun: list[str] = []
    failed: list[BaseException] = []

    async def work() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        begun.append(message.message_id)

    dramatiq.actor(work, actor_name="work", broker=broker, queue_name="q", in_flight=5)
    consumer = Picky(broker, refused="")
    handed_back: list[str] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(300):
            ids = [f"{number}-{one}" for one in range(5)]
            for one in ids:
                message: Message[Any] = Message("q", "work", (), {}, {}, message_id=one)
                broker.async_runner.submit(Delivery(message, one), consumer)
            try:
                handed_back += [one.message_id for one in broker.async_runner.take_back("q")]
            except BaseException as error:
                failed.append(error)
    finally:
        sys.setswitchinterval(interval)
    wait_until(lambda: len(begun) + len(handed_back) >= 1500)
    assert failed == []
    assert sorted(begun + handed_back) == sorted({*begun, *handed_back})
    broker.close()


def test_a_suspect_that_waits_for_the_broker_delays_no_settlement() -> None:
    """On RabbitMQ, the first suspect of a process waits two seconds for its quarantine queue."""
    broker = RedisBroker("redis://127.0.0.1:1/0")  # never asked
    dramatiq.actor(nothing, actor_name="work", broker=broker, queue_name="q", in_flight=5)
    consumer = Picky(broker, refused="")
    is_counted = threading.Event()

    def wait() -> None:
        is_counted.wait()

    for id in ("suspect", "other"):
        message: Message[Any] = Message("q", "work", (), {}, {}, message_id=id)
        delivery = Delivery(message, id)
        if id == "suspect":
            delivery.count_quarantine_run = wait
        broker.async_runner.submit(delivery, consumer)
    try:
        wait_until(lambda: consumer.settled == ["other"], timeout=10)
    finally:
        is_counted.set()
    wait_until(lambda: consumer.settled == ["other", "suspect"], timeout=10)
    broker.close()


def test_an_attempt_that_ends_while_the_broker_is_closed_starts_no_thread() -> None:
    """A thread that nobody stops would keep the process from ending."""
    broker = RedisBroker("redis://127.0.0.1:1/0")  # never called
    has_begun = threading.Event()

    async def wait() -> None:
        has_begun.set()
        await asyncio.Event().wait()

    before = set(threading.enumerate())
    dramatiq.actor(wait, actor_name="work", broker=broker, queue_name="q", in_flight=5)
    message: Message[Any] = Message("q", "work", (), {}, {}, message_id="one")
    broker.async_runner.submit(Delivery(message, "one"), Picky(broker, refused=""))
    assert has_begun.wait(30)
    broker.close()
    wait_until(lambda: set(threading.enumerate()) <= before)


def test_a_failed_attempt_leaves_no_garbage() -> None:
    """A cycle would keep the message in memory until the garbage collector runs."""
    harness = Harness(MemoryBroker(), "default")
    errors: list[weakref.ref[BaseException]] = []

    class Failed(Exception):
        def __init__(self) -> None:
            errors.append(weakref.ref(self))

    async def fail() -> None:
        raise Failed

    sent = harness.actor(fail, in_flight=1, max_retries=0).send()
    gc.disable()
    logging.disable(logging.CRITICAL)  # pytest keeps the records, and their exceptions
    try:
        harness.start()
        # The in-memory broker keeps the exception with the dead letter.
        wait_until(lambda: harness.broker.delete_dead("default", sent.message_id))
        wait_until(lambda: errors and errors[0]() is None, timeout=10)
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)
        harness.stop()


def test_a_blocked_event_loop_is_reported_with_its_actors(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_lag, "_BLOCKED_SECONDS", 0.3)
    harness = Harness(MemoryBroker(), "default")
    has_begun, is_late = threading.Event(), threading.Event()
    lag = harness.broker.async_runner._lag

    async def wait() -> None:
        has_begun.set()
        await asyncio.sleep(60)

    async def block() -> None:
        is_late.wait(30)

    harness.actor(wait, in_flight=2, time_limit=300, max_retries=0).send()
    blocker = harness.actor(block, in_flight=2)
    harness.start()
    assert has_begun.wait(30)
    blocker.send()
    try:
        wait_until(lambda: time.monotonic() > lag._due + 0.3)
        is_late.set()
        (letter,) = wait_until(harness.dead)
        assert letter.failure.error.endswith("TimeLimitExceeded")
        line = wait_until(lambda: next(iter(blocked_lines(caplog)), None))
        assert line.levelname == "WARNING"
        assert line.__dict__["seconds"] >= 0.3
        assert line.__dict__["actors"] == ["block", "wait"]
    finally:
        harness.stop()


def test_an_event_loop_that_runs_in_time_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    lag = loop_lag.LoopLag()
    lag.expect(60, ["work"])
    lag.check()
    assert not blocked_lines(caplog)
    lag.expect(-1.5, ["work"])
    lag.check()
    assert [line.__dict__["seconds"] for line in blocked_lines(caplog)] == [1.5]


def blocked_lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [each for each in caplog.records if each.msg.startswith("the event loop was blocked")]
