"""Dead letters of a queue that is too long to be held while it is read.

Tests of RabbitMQ alone: Redis reads dead letters without hiding them.
"""

from __future__ import annotations

import os
import signal
import struct
import time
from datetime import UTC, datetime
from typing import Any

import pika
import pytest
from pika import spec

from formrelay.brokers import DeadFilter, NotAvailable, State
from formrelay.brokers.envelope import encode
from formrelay.brokers.inspection import Extent
from formrelay.brokers.rabbitmq import dead_changes, dead_letters
from formrelay.brokers.rabbitmq.connection import Connection
from formrelay.brokers.saved_letters import SavedLetter
from formrelay.brokers.settlement import as_dead_letter
from formrelay.core.failure import Failure, Reason
from formrelay.ops.dead_groups import group_dead_letters
from tests.brokers.rabbitmq.conftest import MakeHarness
from tests.support.browsing import ids
from tests.support.harness import Harness
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.shared_vhost]

MANY = 900  # four chunks
PUBLISH = spec.Basic.Publish  # more than a probe of the connection, if it is long


@pytest.fixture(autouse=True)
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give dead letters back after the first chunk."""
    monkeypatch.setattr(dead_letters, "HOLD_SECONDS", -1.0)
    monkeypatch.setattr(dead_changes, "HOLD_SECONDS", -1.0)


def bury(harness: Harness) -> list[str]:
    """Create dead letters, of which every third is a KeyError; returns their ids."""
    actor = harness.actor(print, actor_name="nothing")
    messages = [actor.message(number) for number in range(MANY)]
    errors = [KeyError() if number % 3 == 0 else ValueError() for number in range(MANY)]
    letters = [
        (
            message.message_id,
            encode(
                as_dead_letter(
                    message,
                    Failure.of(error, reason=Reason.PERMANENT, attempt=1, now=time.time()),
                )
            ),
        )
        for message, error in zip(messages, errors, strict=True)
    ]
    harness.bury(letters)
    return [id for id, _ in letters]


def listed(harness: Harness, channel: Any) -> list[tuple[Any, bytes]]:
    """All dead letters, by reading the queue to its end; it is empty afterwards."""
    found = []
    for _ in range(
        channel.queue_declare(f"dlq.{harness.queue}", passive=True).method.message_count
    ):
        _, properties, body = channel.basic_get(f"dlq.{harness.queue}", auto_ack=True)
        found.append((properties, body))
    return found


def test_only_the_oldest_dead_letters_of_a_long_queue_are_read(harness: Harness) -> None:
    buried, inspector = bury(harness), harness.broker.inspector
    extent = Extent()
    found = list(inspector.dead_letters(DeadFilter(harness.queue), limit=None, extent=extent))
    assert 0 < len(found) == extent.looked_at < MANY
    assert not extent.is_complete
    assert ids(found) == buried[: len(found)]
    assert not group_dead_letters(inspector, DeadFilter(harness.queue)).is_complete
    with pytest.raises(NotAvailable, match="behind the oldest"):
        inspector.dead_letter(harness.queue, buried[-1])
    with pytest.raises(NotAvailable, match="behind the oldest"):
        inspector.dead_ids(buried[-1][:13], harness.queue)
    with pytest.raises(NotAvailable, match="behind the oldest"):
        inspector.browse(harness.queue, State.DEAD, cursor=str(MANY - 1))
    # All of them are there again, and the whole count is known.
    assert inspector.replay(DeadFilter(harness.queue), dry_run=True) == MANY


def test_all_dead_letters_of_a_long_queue_are_read_and_compared_if_they_may_be_moved(
    harness: Harness, channel: Any
) -> None:
    buried, inspector = bury(harness), harness.broker.inspector
    extent, which = Extent(whole_queues=True), DeadFilter(harness.queue)
    found = list(inspector.dead_letters(which, limit=None, extent=extent))
    assert ids(found) == buried
    assert (extent.looked_at, extent.is_complete) == (MANY, True)
    groups = group_dead_letters(inspector, which, limit=1, whole_queues=True)
    assert [group.count for group in groups.groups] == [MANY * 2 // 3, MANY // 3]
    assert inspector.add_dead(harness.queue, map(SavedLetter.of, found[-2:])) == 0
    extent = Extent(whole_queues=True)
    assert ids(list(inspector.dead_letters(which, limit=2, extent=extent))) == buried[:2]
    assert [properties.message_id for properties, _ in listed(harness, channel)] == buried


def test_a_filter_reaches_the_end_of_a_long_queue_and_keeps_the_order_of_the_others(
    harness: Harness, channel: Any
) -> None:
    buried, inspector = bury(harness), harness.broker.inspector
    # A quorum queue requeues these behind one another, and in front of the others.
    assert list(inspector.dead_letters(DeadFilter(harness.queue), limit=300))
    assert inspector.replay(DeadFilter(harness.queue, error="KeyError")) == MANY // 3
    assert harness.broker.counts(harness.queue).waiting == MANY // 3
    wait_until(lambda: harness.broker.counts(harness.queue).dead == MANY - MANY // 3)
    others = [id for number, id in enumerate(buried) if number % 3]
    assert [properties.message_id for properties, _ in listed(harness, channel)] == others


@pytest.mark.own_vhost
def test_a_classic_queue_keeps_its_order_too(make_harness: MakeHarness, channel: Any) -> None:
    harness = make_harness(queue_type="classic")
    buried, inspector = bury(harness), harness.broker.inspector
    assert list(inspector.dead_letters(DeadFilter(harness.queue), limit=300))
    assert inspector.delete_dead(DeadFilter(harness.queue, error="KeyError")) == MANY // 3
    others = [id for number, id in enumerate(buried) if number % 3]
    assert [properties.message_id for properties, _ in listed(harness, channel)] == others


def test_an_interrupted_replay_by_filter_goes_on_and_loses_no_other_dead_letter(
    harness: Harness, channel: Any
) -> None:
    buried, inspector = bury(harness), harness.broker.inspector
    which = DeadFilter(harness.queue, error="KeyError")
    seen: list[int] = []
    first = inspector.replay(which, progress=seen.append, should_stop=lambda: len(seen) > 1)
    assert 0 < first < MANY // 3
    assert inspector.replay(which, rate=200) == MANY // 3 - first
    others = [id for number, id in enumerate(buried) if number % 3]
    kept = [properties.message_id for properties, _ in listed(harness, channel)]
    assert sorted(kept) == sorted(others)


@pytest.mark.parametrize("moment", [spec.Basic.Publish, spec.Basic.Ack, spec.Tx.Commit])
def test_letters_that_a_killed_process_left_twice_are_shown_and_replayed_once(
    harness: Harness, channel: Any, monkeypatch: pytest.MonkeyPatch, moment: Any
) -> None:
    buried, inspector = bury(harness), harness.broker.inspector
    harness.broker.close()  # the child has connections of its own
    child = os.fork()
    if child == 0:
        try:
            die_after_sending(moment)
            inspector.replay(DeadFilter(harness.queue, error="NoSuchError"))
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    wait_until(lambda: harness.broker.counts(harness.queue).dead >= MANY)
    if moment is spec.Basic.Ack:
        assert harness.broker.counts(harness.queue).dead > MANY  # published, not removed
    monkeypatch.setattr(dead_letters, "HOLD_SECONDS", 30.0)
    shown = ids(list(inspector.dead_letters(DeadFilter(harness.queue), limit=None)))
    assert sorted(shown) == sorted(buried)
    # Neither in one call nor in two.
    seen: list[int] = []
    inspector.replay(
        DeadFilter(harness.queue), progress=seen.append, should_stop=lambda: sum(seen) > 0
    )
    assert 0 < max(seen) < MANY
    inspector.replay(DeadFilter(harness.queue))
    assert harness.broker.counts(harness.queue).waiting == MANY
    replayed = [channel.basic_get(harness.queue, auto_ack=True)[1].message_id for _ in range(MANY)]
    assert sorted(replayed) == sorted(buried)


def die_after_sending(method: Any) -> None:
    """Kill this process by SIGKILL when it has moved some letters, and then sent a method."""
    send, number, moved = Connection.send, struct.pack(">I", method.INDEX), 0

    def send_and_die(self: Connection, data: bytes) -> None:
        nonlocal moved
        send(self, data)
        kind = data[7:11]
        if moved > 1 and kind == number and len(data) > (10_000 if method is PUBLISH else 0):
            os.kill(os.getpid(), signal.SIGKILL)
        moved += kind == struct.pack(">I", spec.Tx.Commit.INDEX)

    Connection.send = send_and_die  # type: ignore[method-assign]


def test_an_id_is_found_at_the_end_of_a_long_queue(harness: Harness) -> None:
    buried, inspector = bury(harness), harness.broker.inspector
    assert inspector.delete_dead([buried[-1]], queue=harness.queue) == 1
    wait_until(lambda: harness.broker.counts(harness.queue).dead == MANY - 1)


def test_a_dead_letter_that_is_moved_keeps_its_bytes_headers_and_time(
    harness: Harness, channel: Any
) -> None:
    bury(harness)
    died = datetime.now(UTC).replace(microsecond=0)
    death = {"reason": "expired", "queue": harness.queue, "count": 1, "time": died}
    odd = pika.BasicProperties(
        message_id="odd", delivery_mode=2, headers={"x-death": [death], "mine": "yes"}
    )
    channel.basic_publish("", f"dlq.{harness.queue}", b"\xff no JSON", odd)
    inspector = harness.broker.inspector
    # Deletes the others; the odd one is behind the first chunk.
    assert inspector.delete_dead(DeadFilter(harness.queue, reason=Reason.PERMANENT)) == MANY
    ((properties, body),) = listed(harness, channel)
    assert (properties.message_id, body) == ("odd", b"\xff no JSON")
    assert properties.headers["mine"] == "yes"
    assert '"reason":"expired"' in properties.headers["x-formrelay-failure"]
    month = 30 * 86_400_000
    assert month - 600_000 < int(properties.expiration) <= month
