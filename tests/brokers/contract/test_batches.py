"""Coalescing: many messages, one call; each part settled on its own."""

from __future__ import annotations

import gc
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dramatiq
import pytest

from formrelay.core.errors import InvalidJob, PartsFailed, SinkPermanent, SinkTransient
from formrelay.core.failure import Reason
from formrelay.core.retry import RetryPolicy, Schedule
from formrelay.middleware.delivery import Batch
from tests.support.harness import Harness
from tests.support.waiting import wait_until

SOON = RetryPolicy(
    max_attempts=3, jitter=0, backoff=Schedule((timedelta(0), timedelta(milliseconds=100)))
)


def batch_actor(
    harness: Harness, function: Callable[[list[int]], None], **options: Any
) -> dramatiq.Actor[..., None]:
    def collect(batch: list[dict[str, int]]) -> None:
        function([part["number"] for part in batch])

    defaults = {"batch_size": 10, "batch_wait": timedelta(milliseconds=300), "policy": SOON}
    return harness.actor(collect, **{**defaults, **options})


def test_a_full_batch_goes_at_once_and_the_rest_after_its_wait(harness: Harness) -> None:
    batches: list[list[int]] = []
    actor = batch_actor(harness, batches.append)
    for number in range(25):
        actor.send(number=number)
    harness.start()
    wait_until(lambda: sum(map(len, batches)) == 25)
    wait_until(harness.is_empty)
    assert sorted(number for batch in batches for number in batch) == list(range(25))
    assert max(map(len, batches)) == 10
    assert len(batches) <= 5


def test_a_batch_is_full_by_what_its_messages_weigh(harness: Harness) -> None:
    batches: list[list[int]] = []
    actor = batch_actor(harness, batches.append, batch_weight=lambda kwargs: kwargs["number"])
    sent = [4, 4, 4, 2, 3, 25, 1, 10, 9, 2]
    for number in sent:
        actor.send(number=number)
    harness.start()
    wait_until(lambda: sum(map(len, batches)) == len(sent))
    wait_until(harness.is_empty)
    assert sorted(number for batch in batches for number in batch) == sorted(sent)
    # None is over 10, but for the one that is so by itself.
    assert [batch for batch in batches if sum(batch) > 10] == [[25]]
    # Full ones do not wait, and one that does not fit in begins the next.
    assert len(batches) <= 8


def test_a_retried_batch_is_frozen_same_parts_same_order(harness: Harness) -> None:
    batches: list[list[int]] = []

    def fail_twice(batch: list[int]) -> None:
        batches.append(batch)
        if len(batches) < 3:
            raise SinkTransient("away")

    actor = batch_actor(harness, fail_twice)
    for number in range(7):
        actor.send(number=number)
    harness.start()
    wait_until(lambda: len(batches) >= 1)
    actor.send(number=99)  # comes too late for the frozen one
    wait_until(lambda: [99] in batches and len(batches) == 4)
    wait_until(harness.is_empty)
    frozen = [batch for batch in batches if 99 not in batch]
    assert frozen == [batches[0]] * 3
    assert sorted(frozen[0]) == list(range(7))
    assert harness.dead() == []


def test_a_batch_out_of_attempts_dies_part_by_part(harness: Harness) -> None:
    def fail(batch: list[int]) -> None:
        raise SinkTransient("away")

    actor = batch_actor(harness, fail)
    sent = {actor.send(number=number).message_id for number in range(5)}
    harness.start()
    letters = wait_until(lambda: len(harness.dead()) == 5 and harness.dead())
    assert {letter.id for letter in letters} == sent
    assert {letter.failure.attempt for letter in letters} == {3}
    wait_until(harness.is_empty)


def test_the_failed_parts_of_a_batch_are_settled_alone(harness: Harness) -> None:
    done: list[int] = []
    tried: list[int] = []

    def odd_ones_out(batch: list[int]) -> None:
        tried.extend(batch)
        failures: dict[int, BaseException] = {}
        for index, number in enumerate(batch):
            if number == 3:
                failures[index] = SinkPermanent("refused", code=53)
            elif number == 5 and tried.count(5) < 3:
                failures[index] = SinkTransient("later")
            else:
                done.append(number)
        if failures:
            raise PartsFailed(failures)

    actor = batch_actor(harness, odd_ones_out)
    sent = {number: actor.send(number=number).message_id for number in range(8)}
    harness.start()
    wait_until(lambda: sorted(done) == [0, 1, 2, 4, 5, 6, 7])
    wait_until(harness.is_empty)
    assert tried.count(5) == 3
    assert tried.count(3) == 1
    (letter,) = wait_until(harness.dead)
    assert letter.id == sent[3]
    assert (letter.failure.reason, letter.failure.code) == (Reason.PERMANENT, 53)


def test_a_stopped_worker_hands_back_what_it_was_collecting(harness: Harness) -> None:
    batches: list[list[int]] = []
    actor = batch_actor(harness, batches.append, batch_wait=timedelta(seconds=30))
    for number in range(4):
        actor.send(number=number)
    harness.start()
    wait_until(lambda: harness.broker.counts(harness.queue).waiting == 0)
    harness.stop()
    assert batches == []
    wait_until(lambda: harness.broker.counts(harness.queue).waiting == 4)


def let_three_be_unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the message of number 3 cannot be written, for whatever reason."""
    from formrelay.brokers import settlement

    real = settlement.encode

    def encode(message: Any) -> bytes:
        data = real(message)
        if b'"number":3' in data:
            raise InvalidJob("it cannot be written")
        return data

    monkeypatch.setattr(settlement, "encode", encode)


def test_a_part_that_cannot_be_written_again_takes_no_other_with_it(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []

    def fail_at_first(batch: list[int]) -> None:
        if not done and len(batch) > 1:
            let_three_be_unwritable(monkeypatch)
            done.append(-1)
            raise SinkTransient("away")
        done.extend(batch)

    actor = batch_actor(harness, fail_at_first)
    for number in range(6):
        actor.send(number=number)
    harness.start()
    wait_until(lambda: sorted(done) == [-1, 0, 1, 2, 4, 5])
    wait_until(harness.is_empty)
    (letter,) = wait_until(harness.dead)
    assert letter.failure.reason is Reason.UNDECODABLE


def test_a_part_that_cannot_be_written_changes_no_outcome_of_another(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []

    def fail_in_part(batch: list[int]) -> None:
        if not done:
            let_three_be_unwritable(monkeypatch)
            done.append(-1)
            raise PartsFailed({0: SinkTransient("away"), 3: SinkTransient("away")})
        done.extend(batch)

    actor = batch_actor(harness, fail_in_part)
    for number in range(6):
        actor.send(number=number)
    harness.start()
    wait_until(lambda: sorted(done) == [-1, 0])  # the others were done at the first time
    wait_until(harness.is_empty)
    (letter,) = wait_until(harness.dead)
    assert letter.failure.reason is Reason.UNDECODABLE


@pytest.mark.parametrize("fails", [False, True], ids=["done", "dead"])
def test_an_idle_worker_keeps_no_payload_of_its_last_batches(harness: Harness, fails: bool) -> None:
    def run(batch: list[int]) -> None:
        if fails:
            raise SinkPermanent("refused")

    actor = batch_actor(harness, run)
    for number in range(40):
        actor.send(number=number)
    harness.start()
    wait_until(harness.is_empty)
    # Dramatiq's worker threads still refer to the batches themselves.
    queue = harness.queue
    wait_until(lambda: not [batch for batch in _batches(queue) if batch.parts or batch.raw])
    assert all(batch.kwargs == batch.message.kwargs == {"batch": []} for batch in _batches(queue))


def _batches(queue: str) -> list[Batch]:
    """The batches of a queue that anything still refers to; tests before may have left others."""
    # isinstance() asks an object for its class, and Django's lazy settings answer with an error.
    every = [found for found in gc.get_objects() if type(found) is Batch]
    return [batch for batch in every if batch.queue_name == queue]
