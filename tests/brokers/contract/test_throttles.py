"""If a sink is unavailable, its queue pauses, and continues by itself afterwards."""

from __future__ import annotations

from datetime import timedelta
from itertools import count
from threading import Event
from typing import Any

import pytest
from dramatiq.middleware import Middleware

from formrelay.core import throttle as throttles
from formrelay.core.errors import SinkBusy, SinkTransient, SinkUnavailable
from formrelay.core.retry import Exponential, RetryPolicy, Schedule
from formrelay.core.throttle import Throttle
from tests.support.harness import Harness
from tests.support.waiting import wait_until

SOON = RetryPolicy(
    max_attempts=2,
    jitter=0,
    backoff=Schedule((timedelta(0), timedelta(milliseconds=50))),
    count_unavailable=False,
)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The circuit of a failed sink stays open for 0.2, 0.4 and 0.8 s instead of 1, 2 and 4 s."""
    monkeypatch.setattr(throttles, "_BACKOFF", Exponential(base=timedelta(seconds=0.2)))


class Sink:
    """A sink that raises an error until the test makes it available."""

    def __init__(self, error: SinkTransient) -> None:
        self.error = error
        self.is_back = Event()
        self.taken: list[int] = []
        self.asked: list[int] = []

    def take(self, numbers: list[int]) -> None:
        self.asked.append(len(numbers))
        if not self.is_back.is_set():
            raise self.error
        self.taken += numbers


def check_the_queue_pauses(harness: Harness, actor: Any, throttle: Throttle, sink: Sink) -> None:
    """Send numbers to an unavailable sink, and let it come back."""
    actor.send(number=0)
    wait_until(lambda: throttle.is_tripped)
    for number in range(1, 101):
        actor.send(number=number)
    # After each pause one message probes the sink; all others keep waiting. A fetch that was asked
    # for before the sink failed may have brought some of them.
    wait_until(lambda: len(sink.asked) == 3)
    assert harness.broker.counts(harness.queue).waiting >= 80
    sink.is_back.set()
    wait_until(lambda: sorted(sink.taken) == list(range(101)))


def test_a_queue_pauses_while_its_sink_is_unavailable_and_drains_afterwards(
    harness: Harness,
) -> None:
    sink = Sink(SinkUnavailable())
    throttle = Throttle("sink")

    def work(number: int) -> None:
        sink.take([number])

    actor = harness.actor(work, policy=SOON, throttle=throttle)
    harness.start()
    check_the_queue_pauses(harness, actor, throttle, sink)
    wait_until(harness.is_empty)


def test_a_queue_pauses_for_the_sink_of_an_actor_that_was_declared_late(harness: Harness) -> None:
    sink, ran = Sink(SinkUnavailable()), list[int]()
    throttle = Throttle("sink")
    first = harness.actor(lambda: ran.append(1), actor_name="first")
    harness.start()
    first.send()
    wait_until(lambda: ran == [1])

    def work(number: int) -> None:
        sink.take([number])

    actor = harness.actor(work, policy=SOON, throttle=throttle)
    check_the_queue_pauses(harness, actor, throttle, sink)
    assert harness.dead() == []


def test_batches_for_a_busy_sink_grow(harness: Harness) -> None:
    sink = Sink(SinkBusy())
    throttle = Throttle("sink")

    def collect(batch: list[dict[str, Any]]) -> None:
        try:
            sink.take([part["number"] for part in batch])
        finally:
            sink.is_back.set()  # so that it is busy once, however late this thread is

    actor = harness.actor(
        collect,
        policy=SOON,
        throttle=throttle,
        batch_size=10,
        batch_wait=timedelta(seconds=2),  # so that a busy machine does not cut a batch
    )
    for number in range(10):
        actor.send(number=number)
    harness.start()
    wait_until(lambda: sink.asked)
    for number in range(10, 110):
        actor.send(number=number)
    wait_until(lambda: sorted(sink.taken) == list(range(110)))
    assert throttle.stretch == 2
    assert max(sink.asked) == 20
    wait_until(harness.is_empty)


class Skips(Middleware):
    """Counts messages that a worker got but did not run."""

    def __init__(self) -> None:
        self.number = 0
        self._numbers = count(1)

    def after_skip_message(self, broker: Any, message: Any) -> None:
        self.number = next(self._numbers)


def test_prefetched_messages_do_not_run_during_a_pause(harness: Harness) -> None:
    sink = Sink(SinkUnavailable())
    throttle = Throttle("sink")
    skips = Skips()
    harness.broker.add_middleware(skips)
    began = Event()

    def work(number: int) -> None:
        began.wait(60)  # until the others are prefetched
        sink.take([number])

    actor = harness.actor(work, policy=SOON, throttle=throttle)
    for number in range(300):
        actor.send(number=number)
    harness.start(threads=2)
    wait_until(lambda: harness.broker.counts(harness.queue).waiting < 300)
    began.set()
    wait_until(lambda: throttle.is_tripped)
    wait_until(lambda: len(sink.asked) >= 3)
    # Messages that were already in Dramatiq's queue: twice the number of threads, and a few.
    assert skips.number <= 20
    sink.is_back.set()
    wait_until(lambda: sorted(sink.taken) == list(range(300)))
    wait_until(harness.is_empty)


def test_prefetched_batches_do_not_run_during_a_pause(
    harness: Harness,
) -> None:
    sink = Sink(SinkUnavailable())
    throttle = Throttle("sink")
    began = Event()

    def work(batch: list[dict[str, Any]]) -> None:
        began.wait(60)
        sink.take([one["number"] for one in batch])

    actor = harness.actor(
        work,
        policy=SOON,
        throttle=throttle,
        batch_size=10,
        batch_wait=timedelta(milliseconds=50),
    )
    harness.broker.enqueue_many(actor.message(number=number) for number in range(2_000))
    harness.start(threads=2)
    wait_until(lambda: harness.broker.counts(harness.queue).waiting < 2_000)
    began.set()
    wait_until(lambda: throttle.is_tripped)
    wait_until(lambda: len(sink.asked) >= 4)  # two batches that fail, then one probe at a time
    # Two running, and those in Dramatiq's queue: twice the number of threads.
    assert harness.broker.counts(harness.queue).waiting >= 2_000 - 10 * 10
    sink.is_back.set()
    wait_until(lambda: sorted(sink.taken) == list(range(2_000)))
    wait_until(harness.is_empty)
