"""``send()`` and ``enqueue_many()``: delays, order, and messages that they refuse."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from dramatiq import Message

from formrelay.brokers.errors import MessageTooLarge
from formrelay.core.errors import InvalidJob
from tests.support.harness import Harness
from tests.support.waiting import wait_until


def test_a_delayed_message_runs_within_a_second_of_its_due_time(harness: Harness) -> None:
    ran: dict[int, float] = {}

    def note(delay_ms: int) -> None:
        ran[delay_ms] = time.monotonic()

    actor = harness.actor(note)
    harness.start()
    actor.send(0)
    wait_until(lambda: 0 in ran)
    late: list[float] = []
    while len(late) < 5 and min(late, default=9) >= 1:  # the best of five: a machine may be busy
        ran.clear()
        start = time.monotonic()
        # The longest delay first: it must not block the shorter delays.
        for delay_ms in (1500, 700, 100):
            actor.send_with_options(args=(delay_ms,), delay=delay_ms)
        wait_until(lambda: len(ran) == 3)
        lateness = [ran[delay_ms] - start - delay_ms / 1000 for delay_ms in ran]
        assert min(lateness) >= 0
        late.append(max(lateness))
    assert min(late) < 1


def test_the_eta_of_a_stock_producer_is_respected(harness: Harness) -> None:
    ran: list[float] = []
    actor = harness.actor(lambda: ran.append(time.time()), actor_name="note")
    due = time.time() + 0.8
    message = actor.message().copy(options={"eta": int(due * 1000)})
    harness.inject(message.encode())
    harness.start()
    wait_until(lambda: ran)
    assert -0.01 <= ran[0] - due < 30
    wait_until(harness.is_empty)


def test_enqueue_many_accepts_a_generator_and_keeps_the_order(harness: Harness) -> None:
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="collect")

    def messages() -> Iterator[Message[Any]]:
        for number in range(600):  # two chunks
            yield actor.message(number)

    assert harness.broker.enqueue_many(messages()) == 600
    harness.start(threads=1)
    wait_until(lambda: len(ran) == 600)
    assert ran == list(range(600))


def test_a_message_over_the_limit_is_refused_and_nothing_is_enqueued(harness: Harness) -> None:
    actor = harness.actor(print, actor_name="large")
    with pytest.raises(MessageTooLarge, match="expected a message of at most 10000 bytes"):
        actor.send("x" * 10_000)
    assert harness.is_empty()


@pytest.mark.parametrize("argument", [{1, 2}, object(), "\ud800"], ids=["set", "object", "lone"])
def test_an_argument_that_json_cannot_represent_is_refused(
    harness: Harness, argument: object
) -> None:
    actor = harness.actor(print, actor_name="odd")
    with pytest.raises(InvalidJob, match="expected arguments that JSON can hold"):
        actor.send(argument)
    assert harness.is_empty()


def test_the_same_message_enqueued_twice_runs_twice(harness: Harness) -> None:
    ran: list[int] = []
    message = harness.actor(ran.append, actor_name="collect").message(7)
    harness.broker.enqueue(message)
    harness.broker.enqueue(message)
    harness.start()
    wait_until(lambda: ran == [7, 7])
    wait_until(harness.is_empty)


def test_a_plain_job_of_another_publisher_reaches_its_actor(harness: Harness) -> None:
    ran: list[tuple[object, object]] = []

    def greet(payload: object, metadata: object) -> None:
        ran.append((payload, metadata))

    harness.actor(greet, job_type="greeting.send")
    harness.inject(b'{"type": "greeting.send", "payload": {"to": "you"}, "metadata": {"a": 1}}')
    harness.start()
    wait_until(lambda: ran == [({"to": "you"}, {"a": 1})])


def test_no_more_messages_are_in_flight_than_the_concurrency_of_the_queue(harness: Harness) -> None:
    from dataclasses import replace
    from threading import Event, Lock

    harness.broker.options = replace(harness.broker.options, concurrency={harness.queue: 3})
    lock, gate = Lock(), Event()
    running: list[int] = [0, 0, 0]  # running, maximum running, done

    def work() -> None:
        with lock:
            running[0] += 1
            running[1] = max(running[1], running[0])
        gate.wait(0.02)
        with lock:
            running[0] -= 1
            running[2] += 1

    actor = harness.actor(work)
    for _ in range(40):
        actor.send()
    harness.start(threads=8)
    wait_until(lambda: running[2] == 40)
    assert running[1] == 3
