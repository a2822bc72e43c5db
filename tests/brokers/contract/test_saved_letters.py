"""Saved dead letters keep their exact bytes, on every broker and between brokers."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import orjson
import pytest

from formrelay.brokers import DeadFilter
from formrelay.brokers.base import RelayBroker
from formrelay.brokers.saved_letters import BadLetter, SavedLetter
from formrelay.core.errors import SinkPermanent
from formrelay.core.failure import Failure, Reason
from formrelay.testing import MemoryBroker
from tests.support.harness import Harness
from tests.support.waiting import wait_until

#: Unusual spellings that encoding again would change, and bytes that cannot be decoded.
ODD = (
    b'{"queue_name":"q", "actor_name":"nobody","args":[1.0, 1e2,"\\u0041"],"kwargs":{},'
    b'"options":{"broker_priority": 3},"message_id":"ID","message_timestamp":1}'
)
UNDECODABLE = (b"\xff\x00 no JSON", b'{"not": "a message"}', "\u202e text".encode(), b"")


def refuse(**_: object) -> None:
    raise SinkPermanent("refused")


def saved(broker: RelayBroker, queue: str) -> dict[str, SavedLetter]:
    """The dead letters of a queue by id, each through a line of an export."""
    letters = broker.inspector.dead_letters(DeadFilter(queue), limit=None)
    lines = [json.dumps(SavedLetter.of(letter).to_json()) for letter in letters]
    return {letter.id: letter for letter in map(SavedLetter.from_line, lines)}


def buried(harness: Harness) -> dict[str, SavedLetter]:
    """Dead letters with every kind of body, from workers and from another program."""
    harness.actor(refuse).send(payload={"formId": "f1", "ratio": 1.0})
    harness.start()
    wait_until(harness.dead)
    for number, body in enumerate(UNDECODABLE, start=2):
        harness.inject(body)  # on Redis always under the same id
        wait_until(lambda: len(harness.dead()) == number)  # noqa: B023
    harness.stop()
    failure = Failure(Reason.MAXLEN, "RabbitMQ", "no room", "2026-01-31T09:30:00Z", 2, "rabbitmq")
    odd = SavedLetter(harness.queue, "ID", ODD, failure, died=time.time() - 60)
    assert harness.broker.inspector.add_dead(harness.queue, [odd]) == 1
    return saved(harness.broker, harness.queue)


@pytest.mark.parametrize("through", ["itself", "memory"])
def test_exact_bytes_survive_a_round_trip(harness: Harness, through: str) -> None:
    before, inspector = buried(harness), harness.broker.inspector
    assert len(before) == 2 + len(UNDECODABLE)
    bodies = {letter.body for letter in before.values() if letter.is_undecodable}
    assert bodies == set(UNDECODABLE)
    assert inspector.delete_dead(DeadFilter(harness.queue)) == len(before)
    letters = before
    if through == "memory":
        other = MemoryBroker()
        assert other.inspector.add_dead(harness.queue, before.values()) == len(before)
        letters = saved(other, harness.queue)
    assert inspector.add_dead(harness.queue, letters.values()) == len(before)
    after = saved(harness.broker, harness.queue)
    assert after.keys() == before.keys()
    for id, letter in before.items():
        found = after[id]
        assert (found.failure, found.is_undecodable) == (letter.failure, letter.is_undecodable)
        if id == "ID" and through == "memory":
            # Only RabbitMQ stores a failure beside a body: elsewhere the message is encoded again.
            ours, others = orjson.loads(found.body), orjson.loads(letter.body)
            assert ours["options"].pop("failure")["reason"] == "maxlen"
            others["options"].pop("failure", None)
            assert ours == {**others, "queue_name": harness.queue}
        else:
            assert found.body == letter.body
        assert abs((found.died or 0) - (letter.died or 0)) < 0.01


def test_adding_dead_letters_again_adds_none_twice(harness: Harness) -> None:
    before, inspector = buried(harness), harness.broker.inspector
    seen: list[int] = []
    twice = [*before.values(), *before.values()]
    assert inspector.add_dead(harness.queue, twice, progress=seen.append) == 0
    assert seen[-1] == len(twice)
    new = replace(before["ID"], id="another")
    assert inspector.add_dead(harness.queue, [*before.values(), new, new]) == 1
    assert len(harness.dead()) == len(before) + 1


@pytest.mark.parametrize(
    "broker", [pytest.param("redis", marks=pytest.mark.redis), "embedded", "memory"], indirect=True
)
def test_a_dead_letter_that_was_replayed_is_not_added(harness: Harness) -> None:
    # RabbitMQ cannot look for a waiting message.
    letter = SavedLetter(harness.queue, "ID", ODD)
    inspector = harness.broker.inspector
    assert inspector.add_dead(harness.queue, [letter]) == 1
    assert inspector.replay(["ID"]) == 1
    assert inspector.add_dead(harness.queue, [letter]) == 0
    assert harness.broker.counts(harness.queue).dead == 0


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"\xff", "expected JSON"),
        (b"[1]", "expected a JSON object"),
        (b'{"id": "1", "undecodable": false}', "'queue' to be str"),
        (b'{"queue": "q", "id": 1, "undecodable": false}', "'id' to be str"),
        (b'{"queue": "q", "id": "1", "undecodable": 1}', "'undecodable' to be bool"),
        (b'{"queue": "q", "id": "1", "undecodable": true}', "'body'"),
        (
            b'{"queue": "q", "id": "1", "undecodable": true, "body_base64": "SECRET!"}',
            "'body_base64'",
        ),
        (b'{"queue": "q", "id": "1", "undecodable": true, "body": "", "died": "x"}', "'died'"),
        (b'{"queue": "q", "id": "1", "undecodable": true, "body": "", "failure": 1}', "'failure'"),
    ],
)
def test_a_wrong_line_is_named_without_its_values(line: bytes, error: str) -> None:
    with pytest.raises(BadLetter, match=error) as raised:
        SavedLetter.from_line(line)
    assert "SECRET" not in str(raised.value)
