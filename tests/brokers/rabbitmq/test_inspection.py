"""The management API, and listing dead letters without moving them."""

from __future__ import annotations

import os
import re
from threading import Event

import pytest

from formrelay.brokers import DeadFilter, NotAvailable, State
from formrelay.brokers.envelope import encode
from formrelay.brokers.errors import BrokerRefused
from formrelay.brokers.rabbitmq import dead_letters, pauses
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.rabbitmq.management import Management
from formrelay.core.failure import worker_name
from tests.brokers.rabbitmq.conftest import MakeHarness, api, vhost_of
from tests.support.browsing import browse_all, ids
from tests.support.harness import Harness
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.shared_vhost]


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the order of the dead letters, however long it takes."""
    monkeypatch.setattr(dead_letters, "_REORDER_SECONDS", 60.0)


@pytest.fixture
def dead(harness: Harness) -> list[str]:
    """Ids of 500 dead letters, oldest first."""
    actor = harness.actor(print, actor_name="refuse")
    messages = [actor.message(number) for number in range(500)]
    harness.bury([(message.message_id, encode(message)) for message in messages])
    return [message.message_id for message in messages]


def test_listing_dead_letters_keeps_their_order(harness: Harness, dead: list[str]) -> None:
    assert isinstance(harness.broker, RabbitBroker)
    assert harness.broker.get_queue_message_counts(harness.queue) == (0, 0, 500)
    (actor,) = harness.broker.actors.values()
    actor.send_with_options(args=(500,), delay=3_600_000)
    assert harness.broker.get_queue_message_counts(harness.queue) == (0, 1, 500)
    assert harness.broker.inspector.scheduled_in_all() == 1
    for limit in (200, 499, 1000):
        assert ids(browse_all(harness, State.DEAD, limit=limit)) == dead
    found = harness.broker.inspector.find(dead[300])
    assert found is not None
    assert found.message.args == (300,)


def test_all_dead_letters_are_back_after_listing(harness: Harness, dead: list[str]) -> None:
    """RabbitMQ requeues them some time after the connection was closed."""
    for _ in range(20):
        assert ids(browse_all(harness, State.DEAD)) == dead
        assert harness.broker.counts(harness.queue).dead == 500


def test_all_dead_letters_are_back_after_listing_a_few(harness: Harness, dead: list[str]) -> None:
    for _ in range(40):
        page = harness.broker.inspector.browse(harness.queue, State.DEAD, limit=10)
        assert len(page.entries) == 10
        assert harness.broker.counts(harness.queue).dead == len(dead)


def test_looking_at_parts_keeps_the_order(harness: Harness, dead: list[str]) -> None:
    """A quorum queue requeues letters behind those that were requeued before."""
    inspector = harness.broker.inspector

    def first(count: int) -> list[str]:
        return ids(list(inspector.dead_letters(DeadFilter(harness.queue), limit=count)))

    for count in (300, 20, 40, 20):
        assert first(count) == dead[:count]
    assert inspector.delete_dead([dead[10]]) == 1
    assert first(20) == dead[:10] + dead[11:21]
    steps: list[int] = []
    inspector.replay(
        DeadFilter(harness.queue), rate=60, progress=steps.append, should_stop=lambda: 60 in steps
    )
    assert first(100) == dead[61:161]
    assert ids(browse_all(harness, State.DEAD, limit=100)) == dead[61:]


def test_deleting_from_the_middle_keeps_the_others(harness: Harness, dead: list[str]) -> None:
    inspector = harness.broker.inspector
    assert inspector.delete_dead([dead[250], dead[260], "none"]) == 2
    rest = [id for id in dead if id not in (dead[250], dead[260])]
    assert ids(browse_all(harness, State.DEAD)) == rest
    assert inspector.replay(DeadFilter(queue=harness.queue), dry_run=True) == 498


def test_a_pause_outlasts_the_connection_and_is_visible_in_the_management_ui(
    harness: Harness, rabbitmq_url: str
) -> None:
    inspector, base = harness.broker.inspector, os.environ["FORMRELAY_TEST_RABBITMQ_API_URL"]
    inspector.pause(harness.queue)
    harness.broker.close()
    names = [one["name"] for one in api(base, f"exchanges/{vhost_of(rabbitmq_url)}")]
    assert pauses.marker(harness.queue, is_paused=True) in names
    assert pauses.marker(harness.queue, is_paused=False) not in names
    assert inspector.is_paused(harness.queue)
    inspector.resume(harness.queue)
    assert not inspector.is_paused(harness.queue)


@pytest.mark.slow
def test_the_management_api_gives_workers_and_messages_in_flight(
    make_harness: MakeHarness,
) -> None:
    base = os.environ["FORMRELAY_TEST_RABBITMQ_API_URL"]
    harness = make_harness(management_url=base)
    inspector = harness.broker.inspector
    wait_until(lambda: inspector.workers() == [])  # without those of other tests
    begun, finish = Event(), Event()

    def work(_number: int) -> None:
        begun.set()
        finish.wait(20)

    actor = harness.actor(work)
    for number in range(3):
        actor.send(number)
    harness.start(threads=3)
    assert begun.wait(60)
    # It counts every five seconds.
    wait_until(lambda: inspector.counts(harness.queue).in_flight == 3)
    assert [each.in_flight for each in inspector.counts_of([harness.queue, "other"])] == [3, 0]
    (worker,) = wait_until(inspector.workers)
    assert (worker.name, worker.queues) == (worker_name(), (harness.queue,))
    assert worker.last_heartbeat is None
    finish.set()
    wait_until(lambda: inspector.counts(harness.queue).in_flight == 0)


def test_a_management_api_that_fails_is_named_and_done_without(make_harness: MakeHarness) -> None:
    harness = make_harness(management_url="http://guest:secret@127.0.0.1:1/api")
    inspector = harness.broker.inspector
    harness.actor(print, actor_name="any")
    (weakness,) = harness.broker.weaknesses()
    assert re.search(r"127\.0\.0\.1:1.*RABBITMQ_API_URL.*in flight are not counted", weakness)
    assert "secret" not in weakness
    # Without STATE_URL there are no reports either.
    for ask in (inspector.workers, inspector.check_listing, inspector.other_queues):
        with pytest.raises(NotAvailable, match=r"127\.0\.0\.1:1"):
            ask()
    assert inspector.queues() == [harness.queue]
    counts = inspector.counts(harness.queue)
    assert (counts.waiting, counts.in_flight, counts.dead) == (0, None, 0)
    assert inspector.consumed([harness.queue]) == set()


def test_a_management_api_that_refuses_is_named() -> None:
    base = os.environ["FORMRELAY_TEST_RABBITMQ_API_URL"].replace("guest:guest", "guest:wrong")
    management = Management(base, virtual_host="/", timeout=5)
    with pytest.raises(BrokerRefused, match=r"401.*RABBITMQ_API_URL"):
        management.figures()


def test_the_newest_of_too_many_dead_letters_are_not_available(
    harness: Harness, dead: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Redis goes there at once.
    inspector = harness.broker.inspector
    assert ids(inspector.newest_dead(harness.queue, limit=20)) == dead[:-21:-1]
    monkeypatch.setattr("formrelay.brokers.rabbitmq.inspector._MAX_SCANNED", 499)
    with pytest.raises(NotAvailable, match="newest of more than 499 dead letters"):
        inspector.newest_dead(harness.queue)
    wait_until(lambda: harness.broker.counts(harness.queue).dead == 500)
