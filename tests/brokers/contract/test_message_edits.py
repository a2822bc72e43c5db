"""All messages of a queue are looked at, and deleted or replaced, on every broker."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

import pytest

from formrelay.brokers import Entry, Inspector, NotAvailable, State
from formrelay.brokers.envelope import encode
from formrelay.brokers.inspection import Deleted, Edit, EditStep
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.rabbitmq.dead_lock import lock_name, marker
from formrelay.brokers.settlement import as_dead_letter
from formrelay.core.failure import Failure, Reason
from tests.support.harness import Harness
from tests.support.waiting import wait_until

everywhere_but_rabbitmq = pytest.mark.parametrize(
    "broker", [pytest.param("redis", marks=pytest.mark.redis), "embedded", "memory"], indirect=True
)
rabbitmq = pytest.mark.parametrize(
    "broker", [pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)], indirect=True
)


def edit(entry: Entry) -> Edit:
    """Delete the jobs of "ann", and replace the name in the jobs of "both"."""
    name = entry.message.kwargs["payload"]
    if name == "both":
        return encode(entry.message.copy(kwargs={"payload": "bob"}))
    return Deleted.DELETED if name == "ann" else None


def edited(
    inspector: Inspector, queue: str, state: State, *, dry_run: bool = False
) -> tuple[int, int, int]:
    """Number of messages looked at, deleted and replaced."""
    steps = list(inspector.edit_all(queue, state, edit, dry_run=dry_run))
    return (
        sum(step.looked_at for step in steps),
        sum(len(step.deleted) for step in steps),
        sum(len(step.replaced) for step in steps),
    )


def run_all(harness: Harness, ran: list[str]) -> list[str]:
    harness.start()
    wait_until(harness.is_empty)
    harness.stop()
    return sorted(ran)


def test_waiting_messages_are_deleted_and_replaced(harness: Harness) -> None:
    ran: list[str] = []
    actor = harness.actor(lambda payload: ran.append(payload), actor_name="note")
    for number in range(700):  # several pages
        actor.send(payload=("ann", "both", f"n{number:03}")[number % 3])
    found = edited(harness.broker.inspector, harness.queue, State.WAITING)
    assert found == (700, 234, 233)
    assert harness.broker.counts(harness.queue).waiting == 700 - 234
    others = [f"n{number:03}" for number in range(700) if number % 3 == 2]
    assert run_all(harness, ran) == ["bob"] * 233 + others


@everywhere_but_rabbitmq
def test_scheduled_messages_are_edited_and_a_dry_run_changes_nothing(harness: Harness) -> None:
    ran: list[str] = []
    inspector = harness.broker.inspector
    actor = harness.actor(lambda payload: ran.append(payload), actor_name="note")
    for name in ("ann", "both", "cleo"):
        actor.send_with_options(kwargs={"payload": name}, delay=3_600_000)
    assert edited(inspector, harness.queue, State.SCHEDULED, dry_run=True) == (3, 1, 1)
    assert harness.broker.counts(harness.queue).scheduled == 3
    assert edited(inspector, harness.queue, State.SCHEDULED) == (3, 1, 1)
    page = inspector.browse(harness.queue, State.SCHEDULED)
    assert sorted(each.message.kwargs["payload"] for each in page.entries) == ["bob", "cleo"]
    for entry in page.entries:
        assert inspector.run_now(harness.queue, entry.id)
    assert run_all(harness, ran) == ["bob", "cleo"]


def test_dead_letters_are_edited_and_keep_their_failure(harness: Harness) -> None:
    inspector = harness.broker.inspector
    failure = Failure(
        Reason.NOT_RETRIED, "ValueError", "no", at="2026-01-31T09:30:00Z", attempt=1, worker="w:1"
    )
    actor = harness.actor(print, actor_name="note")
    messages = [actor.message(payload=name) for name in ("ann", "both", "cleo")]
    bodies = [encode(as_dead_letter(message, failure)) for message in messages]
    harness.bury([(each.message_id, body) for each, body in zip(messages, bodies, strict=True)])
    assert edited(inspector, harness.queue, State.DEAD, dry_run=True) == (3, 1, 1)
    assert edited(inspector, harness.queue, State.DEAD) == (3, 1, 1)
    left = {letter.message.kwargs["payload"]: letter for letter in harness.dead()}
    assert sorted(left) == ["bob", "cleo"]
    assert left["bob"].id == messages[1].message_id
    assert left["bob"].failure is not None
    assert left["bob"].failure.message == "no"
    assert edited(inspector, harness.queue, State.DEAD) == (2, 0, 0)


def test_messages_in_flight_are_left_to_their_worker(harness: Harness) -> None:
    ran, started, go_on = list[str](), Event(), Event()

    def note(payload: str) -> None:
        started.set()
        go_on.wait(30)
        ran.append(payload)

    actor = harness.actor(note)
    actor.send(payload="ann")
    harness.start(threads=1)
    assert started.wait(30)
    assert edited(harness.broker.inspector, harness.queue, State.WAITING) == (0, 0, 0)
    go_on.set()
    wait_until(harness.is_empty)
    assert ran == ["ann"]


@everywhere_but_rabbitmq
def test_a_message_that_has_changed_since_it_was_looked_at_is_left(harness: Harness) -> None:
    inspector = harness.broker.inspector
    actor = harness.actor(print, actor_name="note")
    id = actor.send(payload="ann").message_id

    def edit_late(entry: Entry) -> Edit:
        inspector.cancel(harness.queue, id)
        harness.broker.enqueue(entry.message.copy(kwargs={"payload": "another"}))
        return Deleted.DELETED

    steps: list[EditStep] = list(inspector.edit_all(harness.queue, State.WAITING, edit_late))
    assert not any(step.deleted for step in steps)
    assert harness.broker.counts(harness.queue).waiting == 1


@everywhere_but_rabbitmq
def test_a_message_that_was_fetched_since_it_was_looked_at_is_left(harness: Harness) -> None:
    ran, started, go_on = list[str](), Event(), Event()

    def note(payload: str) -> None:
        started.set()
        go_on.wait(30)
        ran.append(payload)

    harness.actor(note).send(payload="ann")

    def edit_late(_entry: Entry) -> Edit:
        harness.start(threads=1)
        assert started.wait(30)
        return Deleted.DELETED

    steps = list(harness.broker.inspector.edit_all(harness.queue, State.WAITING, edit_late))
    assert not any(step.deleted for step in steps)
    go_on.set()
    wait_until(harness.is_empty)
    assert ran == ["ann"]


@rabbitmq
def test_rabbitmq_says_which_messages_it_cannot_look_at(harness: Harness) -> None:
    # Redis and the broker in memory list all messages.
    inspector = harness.broker.inspector
    looks: list[Callable[[], object]] = [
        lambda: edited(inspector, harness.queue, State.SCHEDULED),
        lambda: edited(inspector, harness.queue, State.WAITING, dry_run=True),
    ]
    for look in looks:
        with pytest.raises(NotAvailable):
            look()


@rabbitmq
def test_a_killed_move_of_waiting_messages_leaves_none_twice_after_the_next(
    harness: Harness,
) -> None:
    # Only on RabbitMQ are waiting messages moved.
    broker, ran = harness.broker, list[str]()
    assert isinstance(broker, RabbitBroker)
    actor = harness.actor(lambda payload: ran.append(payload), actor_name="note")
    messages = [actor.send(payload=f"n{number}") for number in range(20)]
    for message in messages[:5]:  # published again and not yet removed, when it was killed
        broker.enqueue(message)
    lock = lock_name(harness.queue, waiting=True)
    with broker.client.connection() as connection:
        connection.call(marker(lock))
    actor.send(payload="ann")
    assert edited(broker.inspector, harness.queue, State.WAITING)[1] == 1
    assert run_all(harness, ran) == sorted(f"n{number}" for number in range(20))
