"""A worker that stops puts the messages back at once that it has received and not started."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from threading import Event, Thread

from tests.support.harness import Harness
from tests.support.waiting import wait_until


def test_a_stopping_worker_puts_messages_back_while_its_last_message_runs(
    harness: Harness,
) -> None:
    started: list[int] = []
    may_end = Event()

    def work(number: int) -> None:
        started.append(number)
        assert may_end.wait(60)

    actor = harness.actor(work)
    for number in range(6):
        actor.send(number)
    harness.start(threads=1)
    wait_until(lambda: started)
    stopping = Thread(target=harness.stop)
    stopping.start()
    wait_until(lambda: harness.broker.counts(harness.queue).waiting == 5)
    assert stopping.is_alive()
    may_end.set()
    stopping.join(60)
    assert len(started) == 1
    assert harness.broker.counts(harness.queue).waiting == 5
    harness.start(threads=1)
    wait_until(harness.is_empty)
    assert sorted(started) == list(range(6))


def test_a_draining_worker_finishes_async_messages_and_puts_open_batches_back(
    harness: Harness,
) -> None:
    started: list[int] = []
    may_end = Event()

    async def work(number: int) -> None:
        started.append(number)
        while not may_end.is_set():
            await asyncio.sleep(0.01)

    batches: list[list[int]] = []
    slow = harness.actor(work, in_flight=1)
    day = timedelta(days=1)
    many = harness.actor(batches.append, actor_name="many", batch_size=100, batch_wait=day)
    for number in range(3):
        slow.send(number)
        many.send(number)
    harness.start(threads=1)
    wait_until(lambda: started)
    harness.broker.is_draining = True
    wait_until(lambda: harness.broker.counts(harness.queue).waiting >= 3)
    may_end.set()
    wait_until(lambda: harness.broker.async_runner.running() == 0)
    harness.stop()
    assert not batches
    assert harness.broker.counts(harness.queue).waiting == 6 - len(started)
