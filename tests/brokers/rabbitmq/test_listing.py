"""Listing dead letters, which RabbitMQ can only deliver and requeue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Event, Thread
from typing import Any

import pytest

from formrelay.brokers import DeadFilter
from formrelay.brokers.envelope import encode
from formrelay.brokers.errors import BrokerUnavailable
from formrelay.brokers.inspection import Extent
from formrelay.brokers.rabbitmq import dead_letters, dead_lock
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.rabbitmq.dead_letters import DeadLetterReader
from formrelay.brokers.settlement import Write, as_dead_letter
from formrelay.core.failure import Failure, Reason
from tests.brokers.rabbitmq.conftest import MakeHarness
from tests.support.harness import Harness
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.shared_vhost]


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the order of the dead letters, however long it takes."""
    monkeypatch.setattr(dead_letters, "_REORDER_SECONDS", 60.0)


def bury(harness: Harness, count: int) -> list[str]:
    """Create dead letters; returns their ids, oldest first."""
    actor = harness.actor(print, actor_name="nothing")
    failure = Failure.of(ValueError("no"), reason=Reason.PERMANENT, attempt=1, now=time.time())
    letters = [as_dead_letter(actor.message(number), failure) for number in range(count)]
    for first in range(0, count, 1_000):
        some = letters[first : first + 1_000]
        writes = [Write(letter.message_id, encode(letter)) for letter in some]
        assert isinstance(harness.broker, RabbitBroker)
        harness.broker.client.write(harness.queue, writes)
    return [letter.message_id for letter in letters]


@pytest.fixture
def meanwhile() -> Iterator[Callable[..., None]]:
    """Call a function repeatedly in another thread, with pauses, until the test ends."""
    stop, threads = Event(), list[Thread]()

    def repeat(function: Callable[[], Any], pause: float = 0) -> None:
        def run() -> None:
            while not stop.wait(pause):
                function()

        threads.append(Thread(target=run))
        threads[-1].start()

    yield repeat
    stop.set()
    for thread in threads:
        thread.join()


def test_replays_find_their_dead_letters_while_another_process_lists_them(
    make_harness: MakeHarness, meanwhile: Callable[..., None]
) -> None:
    harness, other = make_harness(), make_harness()
    ids = bury(harness, 40)
    listed: list[int] = []
    look = other.broker.inspector.dead_letters
    meanwhile(lambda: listed.append(len(list(look(DeadFilter(harness.queue))))))
    inspector = harness.broker.inspector
    for number, id in enumerate(ids[:30]):
        so_far = len(listed)
        wait_until(lambda: len(listed) > so_far)  # noqa: B023  # the next listing has started
        act = inspector.replay if number < 25 else inspector.delete_dead
        assert act([id], queue=harness.queue) == 1, f"number {number}"
    # Each listing has all dead letters of its moment.
    assert listed == sorted(listed, reverse=True)
    assert listed[0] == 40
    assert [one.id for one in look(DeadFilter(harness.queue))] == ids[30:]


def test_listing_ten_thousand_dead_letters_hides_them_briefly_and_keeps_their_order(
    harness: Harness, channel: Any, meanwhile: Callable[..., None]
) -> None:
    ids = bury(harness, 10_000)
    hidden: list[float] = []
    counted: list[int] = []

    def count() -> None:
        found = channel.queue_declare(f"dlq.{harness.queue}", passive=True).method.message_count
        if found < len(ids):
            hidden.append(time.monotonic())

    meanwhile(count, pause=0.01)
    inspector = harness.broker.inspector
    for _ in range(2):
        hidden.clear()
        extent = Extent()
        look = inspector.dead_letters(DeadFilter(harness.queue), limit=None, extent=extent)
        found = [one.id for one in look]
        # All on a machine with nothing else to do.
        assert found == ids[: len(found)]
        assert len(found) == extent.looked_at > 0
        assert extent.is_complete == (len(found) == len(ids))
        counted.append(harness.broker.counts(harness.queue).dead)
        # About half a second, as above.
        assert hidden[-1] - hidden[0] < 20
    assert counted == [len(ids)] * 2
    assert inspector.dead_letter(harness.queue, ids[0]) is not None


def test_a_reader_whose_process_died_blocks_no_other_reader(make_harness: MakeHarness) -> None:
    harness, other = make_harness(), make_harness()
    ids = bury(harness, 3)
    reader = DeadLetterReader(harness.broker.client, harness.queue)  # type: ignore[attr-defined]
    other.actor(print, actor_name="nothing")
    reader.__enter__()
    assert [len(found) for found in reader.fetch()] == [3]
    reader._connection.abort()
    reader.control.abort()  # as the system does for a killed process
    assert [one.id for one in other.dead()] == ids


def test_waiting_too_long_for_another_reader_is_an_error(
    make_harness: MakeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness, other = make_harness(), make_harness()
    bury(harness, 3)
    monkeypatch.setattr(dead_lock, "_LOCK_TIMEOUT", 0.1)
    with DeadLetterReader(harness.broker.client, harness.queue) as reader:  # type: ignore[attr-defined]
        assert len(list(reader.fetch())) == 1
        with pytest.raises(BrokerUnavailable, match="another process"):
            other.broker.inspector.replay(["any"], queue=harness.queue)
        counts = other.broker.counts(harness.queue)
        assert (counts.dead, counts.dead_is_lower_bound) == (0, True)
    counts = other.broker.counts(harness.queue)
    assert (counts.dead, counts.dead_is_lower_bound, counts.dead_age) == (3, False, None)
    assert other.broker.inspector.replay(DeadFilter(harness.queue)) == 3


def test_counting_does_not_wait_for_a_process_that_reads_dead_letters(
    make_harness: MakeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness, other = make_harness(), make_harness()
    bury(harness, 3)
    assert other.broker.counts(harness.queue).dead == 3
    monkeypatch.setattr("formrelay.brokers.rabbitmq.inspector._COUNT_TIMEOUT", 0.0)
    with DeadLetterReader(harness.broker.client, harness.queue) as reader:  # type: ignore[attr-defined]
        assert len(list(reader.fetch())) == 1
        counts = other.broker.counts(harness.queue)
        assert (counts.dead, counts.dead_is_lower_bound) == (3, False)
        assert counts.dead_age is not None
        extent = Extent()
        everything = DeadFilter(harness.queue)
        assert other.broker.inspector.replay(everything, dry_run=True, extent=extent) == 3
        # A number that is too old says little: a long replay is going on.
        monkeypatch.setattr("formrelay.brokers.rabbitmq.counting._KNOWN_SECONDS", 0.0)
        counts = other.broker.counts(harness.queue)
        assert (counts.dead, counts.dead_is_lower_bound, counts.dead_age) == (0, True, None)
        other.broker.inspector.replay(everything, dry_run=True, extent=extent)
        assert not extent.is_complete
