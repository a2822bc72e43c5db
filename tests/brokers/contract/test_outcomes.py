"""Each message has one outcome: done, retry, defer or dead letter."""

from __future__ import annotations

import time
from datetime import timedelta
from threading import Event

import pytest

from formrelay.core.errors import InvalidPolicy, NotNow, SinkPermanent, SinkTransient
from formrelay.core.failure import Reason
from formrelay.core.retry import RetryPolicy, Schedule
from tests.support.harness import Harness
from tests.support.waiting import wait_until

SOON = RetryPolicy(
    max_attempts=3, jitter=0, backoff=Schedule((timedelta(0), timedelta(milliseconds=100)))
)


def test_a_message_runs_once_and_is_removed(harness: Harness) -> None:
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="collect")
    for number in range(50):
        actor.send(number)
    harness.start()
    wait_until(lambda: len(ran) >= 50)
    wait_until(harness.is_empty)
    harness.stop()
    assert sorted(ran) == list(range(50))
    assert harness.dead() == []


def test_a_failed_job_is_retried_until_it_succeeds(harness: Harness) -> None:
    attempts: list[float] = []

    def fail_twice() -> None:
        attempts.append(time.monotonic())
        if len(attempts) < 3:
            raise SinkTransient("away", code=503)

    harness.actor(fail_twice, policy=SOON).send()
    harness.start()
    wait_until(lambda: len(attempts) == 3)
    wait_until(harness.is_empty)
    assert harness.dead() == []
    assert attempts[1] - attempts[0] >= 0.1
    assert attempts[2] - attempts[1] >= 0.1


def test_the_last_failed_attempt_makes_a_dead_letter_with_the_failure(harness: Harness) -> None:
    def fail(answer: str) -> None:
        raise ValueError(f"no good: {answer}")

    actor = harness.actor(fail, policy=SOON, log_exceptions="places")
    sent = actor.send("a person's answer")
    harness.start()
    (letter,) = wait_until(harness.dead)
    assert letter.id == sent.message_id
    assert letter.message.args == ("a person's answer",)
    failure = letter.failure
    assert failure.reason is Reason.ATTEMPTS_EXHAUSTED
    assert failure.attempt == 3
    assert failure.error == "ValueError"
    assert "answer" not in failure.message
    assert any("fail" in frame for frame in failure.where)
    assert failure.at.endswith("Z")
    assert ":" in failure.worker


def test_a_permanent_failure_is_not_retried(harness: Harness) -> None:
    attempts: list[int] = []

    def refuse() -> None:
        attempts.append(1)
        raise SinkPermanent("expected another form", code=400)

    harness.actor(refuse, policy=SOON).send()
    harness.start()
    (letter,) = wait_until(harness.dead)
    assert (letter.failure.reason, letter.failure.code) == (Reason.PERMANENT, 400)
    assert attempts == [1]


def test_a_deferred_message_runs_again_without_using_an_attempt(harness: Harness) -> None:
    seen: list[object] = []

    def not_now() -> None:
        seen.append(1)
        if len(seen) < 6:
            raise NotNow("the endpoint is busy", after=timedelta(milliseconds=100))

    # Six runs with three attempts allowed: five runs did not count.
    harness.actor(not_now, policy=SOON).send()
    harness.start()
    wait_until(lambda: len(seen) == 6)
    wait_until(harness.is_empty)
    assert harness.dead() == []


def test_a_message_for_an_unknown_actor_is_dead_lettered(harness: Harness) -> None:
    ran: list[int] = []
    known = harness.actor(ran.append, actor_name="known")
    stranger = known.message(0).copy(actor_name="stranger")
    harness.broker.enqueue(stranger)
    known.send(1)
    harness.start()
    (letter,) = wait_until(harness.dead)
    wait_until(lambda: ran == [1])
    assert letter.failure.reason is Reason.UNKNOWN_ACTOR
    assert "stranger" in letter.failure.message


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe not JSON",
        b"[1, 2]",
        b'{"actor_name": "known"}',
        b'{"type": "no.such.job", "payload": {}}',
        b'{"actor_name": "known", "queue_name": "q", "args": 5, "kwargs": {}, "options": {},'
        b' "message_id": "1", "message_timestamp": 1}',
    ],
)
def test_undecodable_bytes_are_dead_lettered_unchanged_and_other_messages_run(
    harness: Harness, data: bytes
) -> None:
    ran: list[int] = []
    known = harness.actor(ran.append, actor_name="known")
    known.send(1)
    harness.inject(data)
    known.send(2)
    harness.start()
    (letter,) = wait_until(harness.dead)
    wait_until(lambda: sorted(ran) == [1, 2])
    wait_until(harness.is_empty)
    assert letter.failure.reason is Reason.UNDECODABLE
    # A replay restores the same bytes, which are dead-lettered again.
    first_death = letter.failure.at
    assert harness.broker.replay(harness.queue, letter.id)
    (again,) = wait_until(lambda: [one for one in harness.dead() if one.failure.at != first_death])
    assert again.message.options["raw"] == letter.message.options["raw"]


def test_a_replayed_dead_letter_starts_with_zero_attempts(harness: Harness) -> None:
    attempts: list[int] = []
    works = False

    def fail_for_now() -> None:
        attempts.append(1)
        if not works:
            raise SinkTransient

    harness.actor(fail_for_now, policy=SOON).send()
    harness.start()
    (letter,) = wait_until(harness.dead)
    assert len(attempts) == 3
    assert harness.broker.replay(harness.queue, letter.id)
    (letter,) = wait_until(lambda: len(attempts) == 6 and harness.dead())
    works = True
    assert harness.broker.replay(harness.queue, letter.id)
    wait_until(lambda: len(attempts) == 7)
    wait_until(harness.is_empty)
    assert harness.dead() == []
    assert not harness.broker.replay(harness.queue, letter.id)


def test_deleting_a_dead_letter_keeps_the_others(harness: Harness) -> None:
    def refuse() -> None:
        raise SinkPermanent

    actor = harness.actor(refuse)
    first, second = actor.send(), actor.send()
    harness.start()
    wait_until(lambda: len(harness.dead()) == 2)
    assert harness.broker.delete_dead(harness.queue, first.message_id)
    assert not harness.broker.delete_dead(harness.queue, first.message_id)
    assert [letter.id for letter in harness.dead()] == [second.message_id]


def test_flush_keeps_dead_letters(harness: Harness) -> None:
    def refuse() -> None:
        raise SinkPermanent

    actor = harness.actor(refuse)
    actor.send()
    harness.start()
    wait_until(harness.dead)
    harness.stop()
    actor.send()
    wait_until(lambda: harness.broker.counts(harness.queue).waiting == 1)
    harness.broker.flush(harness.queue)
    wait_until(lambda: harness.broker.counts(harness.queue).waiting == 0)
    assert len(harness.dead()) == 1


def test_a_paused_worker_settles_running_jobs_and_continues_when_resumed(
    harness: Harness,
) -> None:
    begun, finish = Event(), Event()
    ran: list[int] = []

    def work(number: int) -> None:
        begun.set()
        finish.wait(10)
        ran.append(number)

    actor = harness.actor(work)
    actor.send(0)
    harness.start(threads=1)
    assert harness.worker is not None
    assert begun.wait(60)
    for consumer in harness.worker.consumers.values():
        consumer.pause()
        assert consumer.paused_event.wait(60)
    finish.set()
    wait_until(lambda: ran == [0])
    wait_until(harness.is_empty)
    actor.send(1)
    assert harness.broker.counts(harness.queue).waiting == 1
    harness.worker.resume()
    wait_until(lambda: ran[-1] == 1)
    wait_until(harness.is_empty)


def test_changes_of_an_actor_to_its_arguments_do_not_reach_the_next_attempt(
    harness: Harness,
) -> None:
    seen: list[dict[str, object]] = []

    def spoil(answers: dict[str, object]) -> None:
        seen.append(dict(answers))
        answers["added"] = object()  # not even JSON
        raise SinkTransient

    actor = harness.actor(spoil, policy=SOON)
    actor.send({"a": 1})
    harness.start()
    (letter,) = wait_until(harness.dead)
    assert seen == [{"a": 1}] * 3
    assert letter.message.args == ({"a": 1},)
    wait_until(harness.is_empty)


def test_an_invalid_policy_is_refused_at_the_declaration(harness: Harness) -> None:
    with pytest.raises(InvalidPolicy, match="act"):
        harness.actor(print, actor_name="act", max_retries="5")
    with pytest.raises(InvalidPolicy, match="expected the policy of act to be a RetryPolicy"):
        harness.actor(print, actor_name="act", policy=3)
