"""What metrics are made of is counted on every broker."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from threading import Event
from typing import Any, TypeAlias

import dramatiq

from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.errors import DeferReason, NotNow, SinkTransient
from formrelay.core.retry import RetryPolicy, Schedule
from formrelay.ops.metrics.queues import QueueReader
from tests.support.harness import Harness
from tests.support.waiting import wait_until

POLICY = RetryPolicy(max_attempts=2, jitter=0, backoff=Schedule((timedelta(milliseconds=30),)))


Totals: TypeAlias = dict[str, dict[tuple[str, ...], list[float]]]


def raiser(*errors: Exception | None) -> Callable[[], None]:
    """An actor that raises one error after the other."""
    left = list(errors)

    def act() -> None:
        error = left.pop(0)
        if error is not None:
            raise error

    return act


def work_off(harness: Harness, settled: int) -> Totals:
    """Run a worker until it has settled messages ``settled`` times; return all its counts."""
    recorder = harness.broker.history_recorder

    def totals() -> Totals:
        return recorder.totals([harness.queue])

    harness.start()
    wait_until(lambda: sum(sum(row[:4]) for row in totals()["jobs"].values()) >= settled)
    harness.stop()
    return totals()


def test_outcomes_errors_deferrals_and_lateness_are_counted(harness: Harness) -> None:
    def idle() -> None:
        pass

    later = NotNow("later", after=timedelta(0), reason=DeferReason.BUSY)
    actor = harness.actor(raiser(SinkTransient("busy"), later, KeyError("x")), policy=POLICY)
    delayed = harness.actor(raiser(None), actor_name="delayed")
    harness.actor(idle)
    actor.send()
    delayed.send_with_options(delay=30)
    found, queue = work_off(harness, 4), harness.queue
    assert found["jobs"][queue, "act"][:4] == [0, 1, 1, 1]
    assert found["jobs"][queue, "delayed"][:4] == [1, 0, 0, 0]
    assert found["jobs"][queue, "idle"] == [0] * len(found["jobs"][queue, "act"])
    error = "formrelay.core.errors.SinkTransient"
    assert found["retries"] == {(queue, error): [1]}
    assert found["dead_letters"] == {(queue, "KeyError"): [1]}
    assert found["deferrals"] == {(queue, "busy"): [1]}
    # The delayed message, the retry and the message that was deferred.
    seconds, *bins = found["lateness"][queue,]
    assert sum(bins) == 3
    assert 0 <= seconds < 60


def test_a_batch_is_counted_by_its_size_and_its_delayed_parts_by_their_lateness(
    harness: Harness,
) -> None:
    error = [SinkTransient("busy")]

    def act(batch: list[dict[str, Any]]) -> None:
        if error:
            raise error.pop()

    actor = harness.actor(act, batch_size=3, batch_wait=timedelta(seconds=10), policy=POLICY)
    for number in range(3):
        actor.send_with_options(kwargs={"number": number}, delay=10 if number == 2 else None)
    found, queue = work_off(harness, 6), harness.queue
    assert found["jobs"][queue, "act"][:4] == [3, 3, 0, 0]
    total, *sizes = found["batches"][queue, "act"]
    assert (total, sum(sizes)) == (6, 2)
    # One part was delayed; the retried batch is one message.
    assert sum(found["lateness"][queue,][1:]) == 2


def test_bytes_that_cannot_be_decoded_and_unknown_actors_have_no_label(harness: Harness) -> None:
    harness.actor(raiser())
    harness.inject(b"\xff not a message")
    message: dramatiq.Message[Any] = dramatiq.Message(harness.queue, "jane", (), {}, {})
    harness.broker.enqueue(message)
    found = work_off(harness, 2)
    assert found["jobs"][harness.queue, "other"][:4] == [0, 0, 2, 0]
    assert {actor for _, actor in found["jobs"]} == {"other", "act"}


def test_a_replayed_dead_letter_is_not_late(harness: Harness) -> None:
    actor = harness.actor(raiser(KeyError("x"), None), policy=POLICY.but(max_attempts=1))
    actor.send_with_options(delay=10)
    assert sum(work_off(harness, 1)["lateness"][harness.queue,][1:]) == 1
    (letter,) = harness.dead()
    assert harness.broker.replay(harness.queue, letter.id)
    assert sum(work_off(harness, 2)["lateness"][harness.queue,][1:]) == 1


def test_the_sizes_of_queues_are_read(harness: Harness) -> None:
    actor = harness.actor(raiser())
    actor.send()
    for delay in (1, 30_000, 3_600_000):
        actor.send_with_options(delay=delay)
    Event().wait(0.05)  # RabbitMQ delivers the first; on Redis, no worker fetches it
    reader = QueueReader(lambda: harness.broker)
    figures = reader.read()
    assert figures.is_up
    (counts,) = (each for each in figures.counts if each.queue == harness.queue)
    if isinstance(harness.broker, RedisBroker):
        assert (counts.waiting, counts.scheduled) == (1, 3)
        assert figures.due is not None
        assert figures.due[harness.queue] == (1, 2)
    elif isinstance(harness.broker, RabbitBroker):
        assert figures.due is None
        assert figures.scheduled_in_all is not None
        assert figures.scheduled_in_all >= 2
