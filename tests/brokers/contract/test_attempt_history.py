"""A message keeps records of its attempts: through retries, deferrals, replays and exports."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from dramatiq.middleware import CurrentMessage

from formrelay.brokers import DeadFilter, Entry
from formrelay.brokers.attempt_history import attempts_of
from formrelay.brokers.saved_letters import SavedLetter
from formrelay.core.errors import NotNow, PartsFailed, SinkPermanent, SinkTransient
from formrelay.core.retry import RetryPolicy, Schedule
from tests.support.harness import Harness
from tests.support.waiting import wait_until

SOON = RetryPolicy(max_attempts=3, jitter=0, backoff=Schedule((timedelta(0),)))


def summary(letter: Entry) -> list[tuple[int, str, str]]:
    return [(each.attempt, each.outcome, each.message) for each in attempts_of(letter)]


def test_each_attempt_is_recorded_until_the_dead_letter_and_through_a_replay(
    harness: Harness,
) -> None:
    errors: list[Exception] = [
        SinkTransient("first", code=503),
        NotNow("not now", after=timedelta(0)),
        SinkTransient("second"),
        ValueError(),
        SinkPermanent("after the replay"),
    ]

    def fail() -> None:
        raise errors.pop(0)

    harness.actor(fail, policy=SOON).send()
    harness.start()
    (letter,) = wait_until(harness.dead)
    before = [
        (1, "retry", "first"),
        (2, "defer", "not now"),
        (2, "retry", "second"),
        (3, "dead", ""),
    ]
    assert summary(letter) == before
    records = attempts_of(letter)
    assert [each.error.rpartition(".")[2] for each in records][2:] == [
        "SinkTransient",
        "ValueError",
    ]
    assert all(each.took is not None and each.at is not None for each in records)
    assert [each.next_in for each in records] == [0, 0, 0, None]

    inspector = harness.broker.inspector
    saved = [SavedLetter.of(one) for one in inspector.dead_letters(DeadFilter(harness.queue))]
    lines = [json.dumps(one.to_json()) for one in saved]
    assert inspector.delete_dead(DeadFilter(harness.queue)) == 1
    assert inspector.add_dead(harness.queue, map(SavedLetter.from_line, lines)) == 1
    (imported,) = harness.dead()
    assert summary(imported) == before

    # A replay counts attempts anew, and keeps the records for people.
    assert harness.broker.replay(harness.queue, letter.id)
    (again,) = wait_until(lambda: [one for one in harness.dead() if not errors])
    assert summary(again) == [*before, (1, "dead", "after the replay")]
    assert again.failure is not None
    assert again.failure.attempt == 1


def test_each_message_of_a_batch_keeps_the_records_of_its_own_attempts(harness: Harness) -> None:
    calls: list[int] = []

    def write(batch: list[dict[str, Any]]) -> None:
        calls.append(len(batch))
        if len(calls) == 1:
            raise SinkTransient("the whole batch")
        raise PartsFailed(
            {
                index: SinkPermanent("bad") if part["number"] else SinkTransient("busy")
                for index, part in enumerate(batch)
            }
        )

    # The long wait is not waited for: a batch of two is full.
    options = {"batch_size": 2, "batch_wait": timedelta(seconds=20)}
    actor = harness.actor(write, policy=SOON.but(max_attempts=2), **options)
    for number in range(2):
        actor.send(number=number)
    harness.start()
    letters = wait_until(lambda: len(harness.dead()) == 2 and harness.dead())
    whole = (1, "retry", "the whole batch")
    found = {letter.message.kwargs["number"]: summary(letter) for letter in letters}
    assert found[1] == [whole, (2, "dead", "bad")]
    assert found[0] == [whole, (2, "dead", "busy")]


def test_a_job_that_has_not_failed_carries_no_records(harness: Harness) -> None:
    seen: list[Any] = []

    def succeed() -> None:
        message: Any = CurrentMessage.get_current_message()
        seen.append(message.options)

    harness.actor(succeed).send()
    harness.start()
    wait_until(lambda: seen)
    assert seen == [{}]
