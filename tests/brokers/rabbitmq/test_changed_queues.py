"""Changes by operators and new settings to existing queues lose no message."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.errors import BrokerRefused
from formrelay.brokers.rabbitmq import client, topology
from formrelay.core.errors import SinkPermanent
from tests.brokers.rabbitmq.conftest import QUEUE_TYPES, MakeHarness, api, vhost_of
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.shared_vhost]


def _fail(number: int) -> None:
    raise SinkPermanent("no")


@pytest.fixture
def count(channel: Any) -> Callable[[str], int]:
    """Number of messages in an existing queue."""

    def count(queue: str) -> int:
        found: int = channel.queue_declare(queue, passive=True).method.message_count
        return found

    return count


# -- a queue that was deleted when its messages are due ------------------------------------


@pytest.mark.parametrize("queue_type", QUEUE_TYPES)
def test_messages_due_for_a_deleted_queue_are_dead_lettered_and_block_no_other_queue(
    make_harness: MakeHarness,
    channel: Any,
    unique: str,
    count: Callable[[str], int],
    queue_type: str,
) -> None:
    gone = make_harness(queue=f"{unique}.gone", queue_type=queue_type)
    actor = gone.actor(print, actor_name="collect")
    # More than RabbitMQ dead-letters at one time.
    gone.broker.enqueue_many(
        actor.message(number).copy(options={"eta": _in_a_second(gone.broker)})
        for number in range(100)
    )
    channel.queue_delete(gone.queue)
    wait_until(lambda: count(f"dlq.{gone.queue}") == 100)
    other = make_harness(queue_type=queue_type)
    ran: list[int] = []
    note = other.actor(ran.append, actor_name="note")
    other.start()
    for number in range(10):
        note.send_with_options(args=(number,), delay=100 + 100 * number)
    wait_until(lambda: sorted(ran) == list(range(10)), timeout=10)
    letters = gone.dead()
    assert sorted(letter.message.args[0] for letter in letters) == list(range(100))
    assert gone.broker.replay(gone.queue, letters[0].id)
    assert count(gone.queue) == 1


def _in_a_second(broker: Any) -> int:
    return int(broker.clock.time() * 1000) + 1_000


@pytest.mark.parametrize("queue_type", QUEUE_TYPES)
def test_messages_due_without_a_dead_letter_queue_go_to_the_unclaimed_queue(
    make_harness: MakeHarness,
    channel: Any,
    unique: str,
    count: Callable[[str], int],
    queue_type: str,
) -> None:
    harness = make_harness(queue_type=queue_type)
    harness.actor(print, actor_name="collect").send_with_options(args=(1,), delay=500)
    before = count(topology.UNCLAIMED)
    channel.queue_delete(unique)
    channel.queue_delete(f"dlq.{unique}")
    wait_until(lambda: count(topology.UNCLAIMED) == before + 1)


# -- dead letter queues with other arguments --------------------------------------------------


def test_another_retention_logs_a_warning_and_work_goes_on(
    make_harness: MakeHarness, caplog: pytest.LogCaptureFixture
) -> None:
    make_harness().broker.counts(make_harness().queue)
    options = BrokerOptions(dead_letter_retention=timedelta(days=7))
    later = make_harness(options=options)
    actor = later.actor(_fail)
    with caplog.at_level(logging.WARNING):
        later.start()
        actor.send(1)
        wait_until(later.dead)
        later.broker.ping()
    (said,) = [one for one in caplog.records if "kept for a different time" in one.message]
    assert (said.asked_days, said.kept_days) == (7, 30)  # type: ignore[attr-defined]


def test_a_dead_letter_queue_of_an_older_deployment_is_used_unchanged(
    make_harness: MakeHarness, channel: Any, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = {"x-queue-type": "quorum", "x-message-ttl": 30 * 86_400_000}
    channel.queue_declare(f"dlq.{unique}", durable=True, arguments=arguments)
    with caplog.at_level(logging.WARNING):
        make_harness().broker.counts(unique)
    assert caplog.records == []


def test_any_other_difference_of_the_dead_letter_queue_is_an_error(
    make_harness: MakeHarness, channel: Any, unique: str
) -> None:
    channel.queue_declare(f"dlq.{unique}", durable=True, arguments={"x-message-ttl": 1_000})
    with pytest.raises(BrokerRefused, match="x-queue-type expected 'quorum', got 'classic'"):
        make_harness().broker.counts(unique)


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        ({}, {"queue_type": "classic"}, "x-queue-type expected 'classic', got 'quorum'"),
        ({}, {"max_priority": 9}, "x-queue-type expected 'classic', got 'quorum'"),
        ({"max_priority": 9}, {"max_priority": 5}, "x-max-priority expected 5, got 9"),
        ({"max_priority": 9}, {}, "x-max-priority expected none, got 9"),
    ],
)
def test_other_settings_are_one_error_that_names_the_difference(
    make_harness: MakeHarness, before: Any, after: Any, difference: str
) -> None:
    make_harness(**before).broker.counts(make_harness().queue)
    with pytest.raises(BrokerRefused) as raised:
        make_harness(**after).broker.counts(make_harness().queue)
    assert difference in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_listing_keeps_dead_letters_although_the_server_limits_deliveries(
    make_harness: MakeHarness, rabbitmq_url: str
) -> None:
    """RabbitMQ 4 limits deliveries by default; here an argument of the queue does."""
    harness = make_harness()
    _, dead, *_ = harness.broker.client.topology.of_queue(harness.queue)  # type: ignore[attr-defined]
    assert dead.arguments["x-delivery-limit"] == 2**31 - 1
    actor = harness.actor(_fail)
    harness.start()
    actor.send(1)
    wait_until(harness.dead)
    for _ in range(25):
        assert len(harness.dead()) == 1


# -- connections ----------------------------------------------------------------------------


def test_connections_of_a_burst_are_closed_when_they_are_idle(
    make_harness: MakeHarness, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make_harness()
    actor = harness.actor(print, actor_name="collect")
    actor.send(0)
    idle = harness.broker.client._idle  # type: ignore[attr-defined]
    together = threading.Barrier(20)

    def send() -> None:
        with harness.broker.client.connection():  # type: ignore[attr-defined]
            together.wait(10)

    threads = [threading.Thread(target=send) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(idle) == 20
    monkeypatch.setattr(client, "_CLOSE_AFTER", 0.0)
    for number in range(25):
        actor.send(number)
    assert len(idle) == 1


# -- a queue of dead letters that was full ----------------------------------------------------


def test_dead_letters_refused_by_a_full_queue_are_written_soon_after_it_has_room(
    make_harness: MakeHarness,
    rabbitmq_url: str,
    unique: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = os.environ["FORMRELAY_TEST_RABBITMQ_API_URL"]
    policy = f"policies/{vhost_of(rabbitmq_url)}/full"
    harness = make_harness()
    ran: list[int] = []

    def fail(number: int) -> None:
        ran.append(number)
        if number >= 0:
            raise SinkPermanent("no")

    actor = harness.actor(fail, actor_name="fail")
    harness.broker.counts(unique)
    definition = {"max-length": 1, "overflow": "reject-publish"}
    body = {"pattern": f"^dlq.{unique}", "apply-to": "queues", "definition": definition}
    api(base, policy, method="PUT", body=body)
    harness.start(threads=2)
    refused = "the broker refused settled messages"
    sent: list[int] = []

    def is_refused() -> bool:
        actor.send(len(sent))
        sent.append(len(sent))
        wait_until(
            lambda: refused in caplog.text or harness.broker.counts(unique).dead == len(sent)
        )
        return refused in caplog.text

    wait_until(is_refused)  # the limit takes effect after a while
    number = len(sent)
    # Other messages are not blocked.
    actor.send(-1)
    wait_until(lambda: -1 in ran)
    api(base, policy, method="DELETE")
    wait_until(lambda: harness.broker.counts(unique).dead == number)
    assert caplog.text.count(refused) <= 5
    assert len(ran) == number + 1
