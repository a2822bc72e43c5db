"""Batches: one call for many messages, each settled by its own outcome."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from datetime import timedelta
from threading import Event, Thread
from typing import Any

import dramatiq
import pytest

from formrelay.core.errors import InvalidJob, PartsFailed, SinkPermanent, SinkTransient
from formrelay.core.failure import Reason
from formrelay.core.retry import RetryPolicy, Schedule
from formrelay.middleware.delivery import Batch
from formrelay.testing import MemoryBroker
from tests.support.harness import Harness
from tests.support.waiting import wait_until

SOON = RetryPolicy(
    max_attempts=3, jitter=0, backoff=Schedule((timedelta(0), timedelta(milliseconds=100)))
)

#: In this time, a busy machine too fetches all messages that wait.
LONG = timedelta(seconds=2)


def batch_actor(
    harness: Harness, function: Callable[[list[int]], None], **options: Any
) -> dramatiq.Actor[..., None]:
    def collect(batch: list[dict[str, int]]) -> None:
        function([part["number"] for part in batch])

    defaults = {"batch_size": 10, "batch_wait": timedelta(milliseconds=300), "policy": SOON}
    return dramatiq.actor(
        collect, broker=harness.broker, **{"queue_name": harness.queue, **defaults, **options}
    )


def test_a_full_batch_runs_at_once(harness: Harness) -> None:
    batches: list[list[int]] = []
    actor = batch_actor(harness, batches.append, batch_wait=timedelta(hours=1))
    for number in range(20):
        actor.send(number=number)
    harness.start()
    wait_until(harness.is_empty)
    assert sorted(number for batch in batches for number in batch) == list(range(20))
    assert [len(batch) for batch in batches] == [10, 10]


def test_a_batch_that_is_not_full_runs_after_batch_wait(harness: Harness) -> None:
    batches: list[list[int]] = []
    actor = batch_actor(harness, batches.append)
    for number in range(5):
        actor.send(number=number)
    harness.start()
    wait_until(harness.is_empty)
    assert sorted(number for batch in batches for number in batch) == list(range(5))


def test_a_batch_is_full_by_the_weight_of_its_messages(harness: Harness) -> None:
    batches: list[list[int]] = []
    weight = {"batch_weight": lambda kwargs: kwargs["number"]}
    actor = batch_actor(harness, batches.append, batch_wait=LONG, **weight)
    sent = [4, 4, 4, 2, 3, 25, 1, 10, 9, 2]
    for number in sent:
        actor.send(number=number)
    harness.start()
    wait_until(lambda: sum(map(len, batches)) == len(sent))
    wait_until(harness.is_empty)
    assert sorted(number for batch in batches for number in batch) == sorted(sent)
    # No batch weighs over 10, except a single message that does.
    assert [batch for batch in batches if sum(batch) > 10] == [[25]]
    # Full batches do not wait, and a message that does not fit starts the next batch.
    assert len(batches) <= 8


def test_messages_with_different_keys_never_share_a_batch(harness: Harness) -> None:
    batches: list[list[int]] = []
    actor = batch_actor(harness, batches.append, batch_key=lambda kwargs: str(kwargs["number"] % 2))
    for number in range(20):  # fits into the prefetch
        actor.send(number=number)
    harness.start()
    wait_until(lambda: sum(map(len, batches)) == 20)
    wait_until(harness.is_empty)
    assert sorted(number for batch in batches for number in batch) == list(range(20))
    assert all(len({number % 2 for number in batch}) == 1 for batch in batches)
    assert max(map(len, batches)) > 1  # the batches of all keys are open at the same time


def test_a_batch_is_full_by_its_bytes(harness: Harness) -> None:
    batches: list[list[int]] = []
    actor = batch_actor(harness, batches.append, batch_bytes=1)
    for number in range(3):
        actor.send(number=number)
    harness.start()
    wait_until(harness.is_empty)
    assert sorted(batches) == [[0], [1], [2]]


def test_a_message_whose_key_cannot_be_made_runs_alone(harness: Harness) -> None:
    batches: list[list[int]] = []

    def key(kwargs: Mapping[str, Any]) -> str:
        return {1: "a", 3: "a"}[kwargs["number"]]

    options = {"batch_size": 2, "batch_wait": timedelta(hours=1)}
    actor = batch_actor(harness, batches.append, batch_key=key, **options)
    for number in (1, 2, 3):
        actor.send(number=number)
    harness.start()
    wait_until(harness.is_empty)
    assert sorted(map(sorted, batches)) == [[1, 3], [2]]


def test_a_retried_batch_has_the_same_parts_in_the_same_order(harness: Harness) -> None:
    batches: list[list[int]] = []

    def fail_twice(batch: list[int]) -> None:
        batches.append(batch)
        if len(batches) < 3:
            raise SinkTransient("away")

    actor = batch_actor(harness, fail_twice, batch_size=7, batch_wait=LONG)
    for number in range(7):
        actor.send(number=number)
    harness.start()
    wait_until(lambda: len(batches) >= 1)
    actor.send(number=99)  # sent too late for the frozen batch
    wait_until(lambda: [99] in batches and len(batches) == 4)
    wait_until(harness.is_empty)
    frozen = [batch for batch in batches if 99 not in batch]
    assert frozen == [batches[0]] * 3
    assert sorted(frozen[0]) == list(range(7))
    assert harness.dead() == []


def test_a_batch_without_attempts_left_is_dead_lettered_part_by_part(harness: Harness) -> None:
    def fail(batch: list[int]) -> None:
        raise SinkTransient("away")

    actor = batch_actor(harness, fail)
    sent = {actor.send(number=number).message_id for number in range(5)}
    harness.start()
    letters = wait_until(lambda: len(harness.dead()) == 5 and harness.dead())
    assert {letter.id for letter in letters} == sent
    assert {letter.failure.attempt for letter in letters} == {3}
    wait_until(harness.is_empty)


def test_failed_parts_of_a_batch_are_settled_separately(harness: Harness) -> None:
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


def test_a_stopping_worker_requeues_an_unfinished_batch(harness: Harness) -> None:
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
    """Make the message with number 3 impossible to encode."""
    from formrelay.brokers import settlement
    from formrelay.brokers.envelope import encode as real

    def encode(message: Any) -> bytes:
        data = real(message)
        if b'"number":3' in data:
            raise InvalidJob("it cannot be written")
        return data

    monkeypatch.setattr(settlement, "encode", encode)


def test_a_part_that_cannot_be_encoded_does_not_affect_the_others(
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


def test_a_part_that_cannot_be_encoded_changes_no_outcome_of_others(
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
    wait_until(lambda: sorted(done) == [-1, 0])  # the others were done at the first attempt
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
    # Dramatiq's worker threads still refer to the batches, but not to their payloads.
    queue = harness.queue
    wait_until(lambda: not [batch for batch in _batches(queue) if batch.parts or batch.raw])
    assert all(batch.kwargs == batch.message.kwargs == {"batch": []} for batch in _batches(queue))


def _batches(queue: str) -> list[Batch]:
    """Batches of a queue that are still in memory; earlier tests may have left others."""
    # isinstance() reads `__class__`, which raises for Django's lazy settings.
    every = [found for found in gc.get_objects() if type(found) is Batch]
    return [batch for batch in every if batch.queue_name == queue]


def test_a_batch_actor_on_a_new_queue_of_a_running_worker_gets_batches(harness: Harness) -> None:
    batches: list[list[int]] = []
    harness.start()
    actor = batch_actor(harness, batches.append, queue_name=f"{harness.queue}_late")
    for number in range(10):
        actor.send(number=number)
    wait_until(lambda: sum(map(len, batches)) == 10)
    assert max(map(len, batches)) > 1


def test_a_batch_actor_declared_late_on_a_queue_in_use_gets_batches_of_one(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []
    first = harness.actor(lambda: ran.append(1), actor_name="first")
    harness.start()
    first.send()
    wait_until(lambda: ran == [1])
    batches: list[list[int]] = []
    fails = [SinkTransient("busy")]

    def collect(numbers: list[int]) -> None:
        if numbers == [3] and fails:
            raise fails.pop()
        batches.append(numbers)

    actor = batch_actor(harness, collect)
    for number in range(5):
        actor.send(number=number)
    wait_until(lambda: sum(map(len, batches)) == 5)
    wait_until(harness.is_empty)
    assert sorted(number for batch in batches for number in batch) == list(range(5))
    lines = [line for line in caplog.records if line.message.startswith("a batch actor was")]
    if isinstance(harness.broker, MemoryBroker):  # its consumers can always collect batches
        assert lines == []
    else:
        assert [vars(line)["actor"] for line in lines] == [actor.actor_name]
        assert max(map(len, batches)) == 1


@pytest.mark.parametrize("step", ["batching", "throttles"])
def test_a_batch_actor_declared_while_its_consumer_is_made_gets_batches(
    harness: Harness,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
) -> None:
    batches: list[list[int]] = []
    actors: list[Any] = []
    read = getattr(harness.broker, step)

    def declare_meanwhile(queue: str) -> Any:
        found = read(queue)
        if not actors:
            actors.append(None)  # the declaration reads it too
            actors[0] = batch_actor(harness, batches.append)
        return found

    harness.actor(lambda: None, actor_name="first")
    monkeypatch.setattr(harness.broker, step, declare_meanwhile)
    harness.start()
    wait_until(lambda: actors and actors[0])
    for number in range(5):
        actors[0].send(number=number)
    wait_until(harness.is_empty)
    assert sorted(number for batch in batches for number in batch) == list(range(5))
    lines = [line for line in caplog.records if line.message.startswith("a batch actor was")]
    assert len(lines) == (0 if isinstance(harness.broker, MemoryBroker) else 1)


def test_messages_of_a_late_batch_actor_are_requeued_when_the_worker_stops(
    harness: Harness,
) -> None:
    batches: list[list[int]] = []
    begun, may_end = Event(), Event()

    def collect(numbers: list[int]) -> None:
        begun.set()
        assert may_end.wait(60)
        batches.append(numbers)

    harness.actor(lambda: None, actor_name="first").send()
    harness.start(threads=1)
    wait_until(harness.is_empty)
    actor = batch_actor(harness, collect, batch_size=2, batch_wait=timedelta(milliseconds=1))
    for number in range(6):
        actor.send(number=number)
    assert begun.wait(60)
    stopping = Thread(target=harness.stop)
    stopping.start()
    wait_until(lambda: harness.broker.is_stopping)
    may_end.set()
    stopping.join(60)
    left = 6 - sum(map(len, batches))
    assert left > 0
    wait_until(lambda: harness.broker.counts(harness.queue).waiting == left)
    harness.start()
    wait_until(lambda: sum(map(len, batches)) == 6)
    wait_until(harness.is_empty)
