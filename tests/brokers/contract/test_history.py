"""What workers do is added to the history of queues."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dramatiq
import pytest

from formrelay.core.error_groups import group_id
from formrelay.core.errors import NotNow, PartsFailed, SinkPermanent, SinkTransient
from formrelay.core.retry import RetryPolicy, Schedule
from formrelay.state.history import Point, total
from tests.support.harness import Harness
from tests.support.waiting import wait_until

POLICY = RetryPolicy(max_attempts=2, jitter=0, backoff=Schedule((timedelta(0),)))


def work_off(harness: Harness) -> Point:
    """Process all messages; return the counts of the queue, which are added at the end."""
    harness.start()
    wait_until(harness.is_empty)
    harness.stop()
    return total(harness.broker.history().read([harness.queue])[harness.queue])


def errors_of(harness: Harness) -> dict[str, int]:
    return harness.broker.history().errors([harness.queue]).get(harness.queue, {})


def raiser(*errors: Exception | None) -> Callable[[], None]:
    """An actor that raises one error after the other, and the last one from then on."""
    left = list(errors)

    def act() -> None:
        error = left.pop(0) if len(left) > 1 else left[0]
        if error is not None:
            raise error

    return act


def test_each_attempt_is_counted_with_its_outcome(harness: Harness) -> None:
    errors = (None, SinkTransient("busy"), NotNow("later", after=timedelta(0)), KeyError("x"))
    actor = harness.actor(raiser(*errors), policy=POLICY)
    for _ in range(2):
        actor.send()
    point = work_off(harness)
    assert (point.done, point.retried, point.dead, point.deferred) == (1, 1, 1, 1)
    assert sum(point.durations) == point.attempts == 3  # a deferred message is no attempt
    failures = [entry.failure for entry in harness.dead()]
    assert failures[0] is not None
    groups = errors_of(harness)
    assert list(groups.values()) == [1, 1]
    assert group_id(failures[0]) in groups  # as dead letters are grouped


def test_durations_are_those_of_the_actor(harness: Harness) -> None:
    actor = harness.actor(lambda: time.sleep(0.05))
    actor.send()
    point = work_off(harness)
    assert point.p50_s is not None
    assert point.p50_s >= 0.04


@pytest.mark.parametrize("error", [None, SinkPermanent("no")])
def test_attempts_of_async_actors_are_counted(harness: Harness, error: Exception | None) -> None:
    async def act() -> None:
        await asyncio.sleep(0)
        if error is not None:
            raise error

    actor = dramatiq.actor(act, broker=harness.broker, queue_name=harness.queue, in_flight=5)
    for _ in range(3):
        actor.send()
    point = work_off(harness)
    assert (point.done, point.dead) == ((3, 0) if error is None else (0, 3))
    assert sum(point.durations) == 3


def test_each_part_of_a_batch_is_counted(harness: Harness) -> None:
    def act(batch: list[dict[str, Any]]) -> None:
        failures = {index: part["fails"] for index, part in enumerate(batch) if part["fails"]}
        if failures:
            raise PartsFailed({index: SinkPermanent("no") for index in failures})

    wait = timedelta(milliseconds=200)
    actor = harness.actor(act, batch_size=5, batch_wait=wait, policy=POLICY)
    for number in range(10):
        actor.send(fails=number == 3)
    point = work_off(harness)
    assert (point.done, point.dead) == (9, 1)
    assert sum(point.durations) == 10
    assert sum(errors_of(harness).values()) == 1


def test_each_part_of_a_batch_that_fails_as_a_whole_is_counted(harness: Harness) -> None:
    error = [SinkTransient("busy")]

    def act(batch: list[dict[str, Any]]) -> None:
        if error:
            raise error.pop()

    actor = harness.actor(act, batch_size=3, batch_wait=timedelta(seconds=10), policy=POLICY)
    for number in range(3):
        actor.send(number=number)
    point = work_off(harness)
    assert (point.done, point.retried) == (3, 3)


def test_bytes_that_cannot_be_decoded_are_counted_as_dead(harness: Harness) -> None:
    harness.actor(raiser(None))
    harness.inject(b"\xff not a message")
    point = work_off(harness)
    assert (point.done, point.dead, sum(point.durations)) == (0, 1, 0)
    assert sum(errors_of(harness).values()) == 1


def test_a_message_of_an_unknown_actor_is_counted_as_dead(harness: Harness) -> None:
    actor = harness.actor(raiser(None))
    actor.send()
    message = actor.message().copy(actor_name="nobody")
    harness.broker.enqueue(message)
    point = work_off(harness)
    assert (point.done, point.dead) == (1, 1)
