"""Ids that are not UTF-8, from other publishers: no message is lost, all can be listed."""

from __future__ import annotations

from typing import Any

import orjson
import pika
import pytest

from formrelay.brokers.inspection import DeadFilter
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.retry import RetryPolicy
from tests.support.harness import Harness
from tests.support.waiting import wait_until

ID = b"\xff\xc3id\x1b[31m"


def id_of(harness: Harness) -> str:
    """The id as the broker's inspector shows it."""
    is_redis = isinstance(harness.broker, RedisBroker)
    return ID.decode(errors="surrogateescape" if is_redis else "backslashreplace")


def publish(harness: Harness, body: bytes, *, queue: str | None = None) -> None:
    """Put a message on the queue under :data:`ID`."""
    broker = harness.broker
    if isinstance(broker, RedisBroker):
        keys, client = broker.keys, broker.client
        client.hset(keys.bodies(harness.queue), ID, body)
        client.rpush(keys.waiting(harness.queue), ID)
        return
    assert isinstance(broker, RabbitBroker)
    broker.counts(harness.queue)  # declares the queue
    channel = pika.BlockingConnection(broker.client.servers[0]).channel()
    for more in ({}, {"headers": {"odd": ID}, "app_id": ID})[: 1 if queue is None else 2]:
        properties = pika.BasicProperties(
            content_type="application/json", delivery_mode=2, message_id=ID, **more
        )
        channel.basic_publish("", queue or harness.queue, body, properties)
    channel.connection.close()


def plain_job(**fields: Any) -> bytes:
    return orjson.dumps({"type": "odd", "payload": {"a": 1}, **fields})


def message(harness: Harness, actor: str) -> bytes:
    return orjson.dumps(
        {
            "queue_name": harness.queue,
            "actor_name": actor,
            "args": [],
            "kwargs": {},
            "options": {},
            "message_id": "of-the-body",
            "message_timestamp": 1_769_851_800_000,
        }
    )


@pytest.mark.parametrize("body", [b"\xff{ not JSON", b'{"type": "unknown"}'])
def test_an_undecodable_message_is_dead_lettered_with_its_id(harness: Harness, body: bytes) -> None:
    seen: list[int] = []
    actor = harness.actor(seen.append, actor_name="add")
    publish(harness, body)
    actor.send(1)
    harness.start()
    wait_until(lambda: harness.is_empty() and seen)
    (letter,) = wait_until(harness.dead)
    assert letter.id == (id := id_of(harness))
    # A replay returns the same bytes.
    inspector = harness.broker.inspector
    assert inspector.dead_ids(id[:2], harness.queue) == [(harness.queue, id)]
    assert inspector.dead_letter(harness.queue, id) is not None
    harness.stop()
    assert inspector.replay([id], queue=harness.queue) == 1
    harness.start()
    wait_until(lambda: len(harness.dead()) == 1)
    assert harness.dead()[0].id == id
    assert inspector.delete_dead([id], queue=harness.queue) == 1
    assert list(inspector.dead_letters(DeadFilter(harness.queue))) == []


def test_a_plain_job_runs_and_its_dead_letter_can_be_found(harness: Harness) -> None:
    runs: list[Any] = []

    def fail(payload: Any, metadata: Any) -> None:
        runs.append(payload)
        raise ValueError("no")

    harness.actor(fail, actor_name="odd", policy=RetryPolicy(max_attempts=1))
    harness.broker.job_types["odd"] = "odd"
    publish(harness, plain_job())
    harness.start()
    wait_until(lambda: harness.is_empty() and harness.dead())
    assert runs == [{"a": 1}]
    (letter,) = wait_until(harness.dead)
    assert letter.failure.error == "ValueError"
    inspector = harness.broker.inspector
    assert inspector.dead_ids(letter.id, harness.queue) == [(harness.queue, letter.id)]
    assert inspector.delete_dead([letter.id], queue=harness.queue) == 1


def test_a_message_in_dramatiqs_format_runs_and_is_settled(harness: Harness) -> None:
    seen: list[int] = []
    harness.actor(lambda: seen.append(1), actor_name="once")
    publish(harness, message(harness, "once"))
    harness.start()
    wait_until(lambda: harness.is_empty() and seen)
    assert seen == [1]
    assert harness.dead() == []


@pytest.mark.parametrize("is_plain", [True, False])
def test_dead_letters_of_another_program_are_listed_and_replayed(
    harness: Harness, is_plain: bool
) -> None:
    broker = harness.broker
    harness.actor(lambda: None, actor_name="once")
    broker.job_types["odd"] = "once"
    body = plain_job() if is_plain else message(harness, "once")
    if isinstance(broker, RedisBroker):
        broker.client.hset(broker.keys.dead_bodies(harness.queue), ID, body)
        broker.client.zadd(broker.keys.dead(harness.queue), {ID: 1_769_851_800_000})
    else:
        assert isinstance(broker, RabbitBroker)
        publish(harness, body, queue=broker.client.topology.dead_queue(harness.queue))
    letters = list(broker.inspector.dead_letters(DeadFilter(harness.queue)))
    assert {letter.id for letter in letters} == {id_of(harness)}
    assert broker.inspector.replay(DeadFilter(harness.queue)) == len(letters)
    assert broker.inspector.counts(harness.queue).waiting == len(letters)
