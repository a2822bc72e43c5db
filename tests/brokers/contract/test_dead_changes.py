"""Dead letters are replayed and deleted in steps, and jobs are cancelled, on every broker."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

import pytest

from formrelay.brokers import DeadFilter, Inspector, NotAvailable, State
from formrelay.brokers.envelope import encode
from formrelay.brokers.inspection import Extent
from formrelay.brokers.settlement import as_dead_letter
from formrelay.core.error_groups import group_id
from formrelay.core.failure import Failure, Reason
from formrelay.ops.dead_groups import group_dead_letters
from tests.support.browsing import browse_all, ids
from tests.support.harness import Harness
from tests.support.waiting import wait_until

everywhere_but_rabbitmq = pytest.mark.parametrize(
    "broker", [pytest.param("redis", marks=pytest.mark.redis), "embedded", "memory"], indirect=True
)


@pytest.fixture
def inspector(harness: Harness) -> Inspector:
    return harness.broker.inspector


def failed(message: str, error: str = "ValueError") -> Failure:
    return Failure(
        Reason.NOT_RETRIED, error, message, at="2026-01-31T09:30:00Z", attempt=1, worker="w:1"
    )


def bury(harness: Harness, texts: list[str], actor_name: str = "nothing") -> list[str]:
    """Create a dead letter for each error text; returns their ids, oldest first."""
    actor = harness.broker.actors.get(actor_name) or harness.actor(print, actor_name=actor_name)
    messages = [actor.message(payload={"name": "Ada Lovelace"}) for _ in texts]
    letters = [
        (message.message_id, encode(as_dead_letter(message, failed(text))))
        for message, text in zip(messages, texts, strict=True)
    ]
    harness.bury(letters)
    return [id for id, _ in letters]


# -- groups -------------------------------------------------------------------------------


def test_a_filter_acts_on_one_group_of_errors(harness: Harness, inspector: Inspector) -> None:
    ours = bury(harness, ["answered 503 for f1", "answered 500 for f2", "no form 17"])
    group = group_id(failed("answered 404 for f3"))
    which = DeadFilter(harness.queue, group=group)
    assert ids(inspector.dead_letters(which)) == ours[:2]
    assert inspector.replay(which, dry_run=True) == 2
    assert inspector.replay(which) == 2
    assert [letter.id for letter in harness.dead()] == ours[2:]


def test_dead_letters_are_grouped_with_counts_and_an_example(
    harness: Harness, inspector: Inspector
) -> None:
    texts = ["no form 17", "answered 503 for 'x'", "answered 500 for 'y z'"]
    ours = bury(harness, texts)
    bury(harness, ["the user Ada Lovelace is gone"], actor_name="other")
    found = group_dead_letters(inspector, DeadFilter(harness.queue))
    assert (found.count, found.looked_at, found.is_complete) == (4, 4, True)
    first = found.groups[0]
    assert (first.count, first.error) == (2, "ValueError")
    assert first.message == "answered <number> for <text>"
    assert first.example == (harness.queue, ours[1])
    assert (first.queues, first.actors) == ([harness.queue], ["nothing"])
    assert first.first is not None
    assert found.first is not None
    assert found.first <= first.first <= (first.last or 0) <= (found.last or 0)
    others = {group.message: group.actors for group in found.groups[1:]}
    # A value of the payload is not shown.
    assert others == {"no form <number>": ["nothing"], "the user […] is gone": ["other"]}
    by_id = {group.id for group in found.groups}
    assert group_id(failed("answered 1 for 'z'")) in by_id


def test_groups_say_whether_all_dead_letters_were_looked_at(
    harness: Harness, inspector: Inspector
) -> None:
    bury(harness, ["a", "b", "b", "c", "c", "c"])
    which = DeadFilter(harness.queue)
    found = group_dead_letters(inspector, which, limit=3)
    assert (found.looked_at, found.is_complete, found.count) == (3, False, 3)
    found = group_dead_letters(inspector, which, limit=6, most_groups=2)
    assert (found.looked_at, found.is_complete) == (6, True)
    assert ([group.count for group in found.groups], found.ungrouped) == ([2, 1], 3)


def test_an_extent_limits_how_many_dead_letters_are_looked_at(
    harness: Harness, inspector: Inspector
) -> None:
    ours = bury(harness, ["a", "a", "b"])
    for at_most, found, is_complete in ((2, [], False), (3, ours[2:], True), (9, ours[2:], True)):
        extent = Extent(at_most=at_most)
        which = DeadFilter(harness.queue, group=group_id(failed("b")))
        assert ids(inspector.dead_letters(which, limit=None, extent=extent)) == found
        assert (extent.looked_at, extent.is_complete) == (min(at_most, 3), is_complete)


# -- steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["replay", "delete_dead"])
def test_a_stopped_change_is_completed_by_another_call(
    harness: Harness, inspector: Inspector, action: str
) -> None:
    many = 1_200  # several steps
    bury(harness, ["no"] * many)
    change: Callable[..., int] = getattr(inspector, action)
    seen: list[int] = []
    which = DeadFilter(harness.queue)
    first = change(which, progress=seen.append, should_stop=lambda: bool(seen and seen[-1]))
    assert 0 < first == seen[-1] < many
    wait_until(lambda: harness.broker.counts(harness.queue).dead == many - first)
    assert change(which) == many - first
    expected = many if action == "replay" else 0
    wait_until(lambda: harness.broker.counts(harness.queue).waiting == expected)
    wait_until(lambda: harness.broker.counts(harness.queue).dead == 0)


def test_a_change_that_is_stopped_before_it_starts_changes_nothing(
    harness: Harness, inspector: Inspector
) -> None:
    bury(harness, ["no"] * 3)
    assert inspector.replay(DeadFilter(harness.queue), should_stop=lambda: True) == 0
    assert harness.broker.counts(harness.queue).dead == 3


def test_a_rate_limits_each_step_and_holds_nothing_in_between(
    harness: Harness, inspector: Inspector
) -> None:
    ours = bury(harness, ["no", "yes", "no", "no", "yes"])
    which = DeadFilter(harness.queue, group=group_id(failed("no")))
    left: list[int] = []

    def look(_count: int) -> None:
        left.append(harness.broker.counts(harness.queue).dead)

    started = time.monotonic()
    assert inspector.replay(which, rate=20, progress=look) == 3
    assert time.monotonic() - started >= 3 / 20
    assert left[-1] == 2
    assert [letter.id for letter in harness.dead()] == [ours[1], ours[4]]


def test_a_rate_below_one_replays_single_dead_letters_and_waiting_can_be_stopped(
    harness: Harness, inspector: Inspector
) -> None:
    bury(harness, ["no"] * 3)
    counted: list[int] = []
    which = DeadFilter(harness.queue)
    # Would wait for an hour.
    stop = counted.__len__
    assert inspector.delete_dead(which, rate=1 / 3600, progress=counted.append, should_stop=stop)
    assert counted == [1]
    wait_until(lambda: harness.broker.counts(harness.queue).dead == 2)


# -- cancelling ------------------------------------------------------------------------------


@everywhere_but_rabbitmq
def test_waiting_and_scheduled_jobs_are_cancelled(harness: Harness, inspector: Inspector) -> None:
    actor = harness.actor(print, actor_name="note")
    kept, waiting = actor.send(), actor.send()
    urgent = actor.send_with_options(broker_priority=9)
    scheduled = actor.send_with_options(delay=3_600_000)
    for message in (waiting, urgent, scheduled):
        assert inspector.cancel(harness.queue, message.message_id)
        assert not inspector.cancel(harness.queue, message.message_id)
        assert inspector.find(message.message_id) is None
    assert ids(browse_all(harness, State.WAITING)) == [kept.message_id]
    counts = harness.broker.counts(harness.queue)
    assert (counts.waiting, counts.scheduled, counts.in_flight) == (1, 0, 0)
    assert not inspector.cancel("another", kept.message_id)
    assert not inspector.cancel(harness.queue, "none such")


@everywhere_but_rabbitmq
def test_a_job_in_flight_and_a_dead_letter_are_not_cancelled(
    harness: Harness, inspector: Inspector
) -> None:
    begun, finish, ran = Event(), Event(), list[int]()

    def work() -> None:
        begun.set()
        finish.wait(20)
        ran.append(1)

    running = harness.actor(work).send()
    (dead,) = bury(harness, ["no"])
    harness.start(threads=1)
    assert begun.wait(10)
    assert not inspector.cancel(harness.queue, running.message_id)
    assert not inspector.cancel(harness.queue, dead)
    finish.set()
    wait_until(harness.is_empty)
    assert ran == [1]
    assert len(harness.dead()) == 1


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
@pytest.mark.rabbitmq
def test_rabbitmq_cannot_cancel_one_job(harness: Harness, inspector: Inspector) -> None:
    # AMQP has no operation that removes a message from the middle of a queue.
    with pytest.raises(NotAvailable, match="cannot remove"):
        inspector.cancel(harness.queue, "any")
