"""Existing queues are adopted, or one error names every difference."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from formrelay.brokers.errors import BrokerRefused
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.rabbitmq.connection import Connection
from formrelay.core.errors import SinkPermanent
from tests.brokers.rabbitmq.conftest import MakeHarness
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.shared_vhost]


def old_system(channel: Any, queue: str) -> None:
    """Declare a work queue as the older system does."""
    channel.exchange_declare("dlx.old", exchange_type="fanout", durable=True)
    channel.queue_declare(
        queue,
        durable=True,
        arguments={"x-dead-letter-exchange": "dlx.old", "x-message-ttl": 86_400_000},
    )


def _failures(consumer: Any) -> int:
    return consumer._reconnect.failures if consumer is not None else 0


def test_a_queue_with_other_arguments_is_one_error_that_names_each_difference(
    make_harness: MakeHarness, channel: Any, unique: str
) -> None:
    old_system(channel, unique)
    harness = make_harness()
    harness.actor(print, actor_name="collect")
    with pytest.raises(BrokerRefused) as raised:
        harness.broker.ping()
    text = str(raised.value)
    assert repr(unique) in text
    for difference in (
        "x-queue-type expected 'quorum', got 'classic'",
        f"x-dead-letter-exchange expected 'dlx.{unique}', got 'dlx.old'",
        f"x-dead-letter-routing-key expected '{unique}', got none",
        "x-overflow expected 'reject-publish', got none",
        "x-message-ttl expected none, got 86400000",
        "adopt the queue by name",
    ):
        assert difference in text
    assert len(text.splitlines()) == 1
    with pytest.raises(BrokerRefused, match="with other arguments than expected"):
        harness.broker.actors["collect"].send(1)


@pytest.mark.own_vhost
def test_classic_and_not_durable_are_named_too(
    make_harness: MakeHarness, channel: Any, unique: str
) -> None:
    channel.queue_declare(unique, durable=False)
    harness = make_harness(queue_type="classic")
    harness.actor(print, actor_name="collect")
    with pytest.raises(BrokerRefused, match="durable expected True, got False"):
        harness.broker.ping()


def test_a_worker_logs_it_once_a_minute_and_continues_when_it_is_fixed(
    make_harness: MakeHarness, channel: Any, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    old_system(channel, unique)
    harness = make_harness()
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="collect")
    with caplog.at_level(logging.ERROR):
        harness.start()
        assert harness.worker is not None
        thread = harness.worker.consumers[unique]
        wait_until(lambda: _failures(thread.consumer) >= 4)
    said = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert len(said) == 1
    assert "with other arguments than expected" in vars(said[0])["error_message"]
    channel.queue_delete(unique)
    actor.send(1)
    wait_until(lambda: ran == [1])


def test_an_adopted_queue_is_used_unchanged_with_its_own_dead_letter_exchange(
    make_harness: MakeHarness, channel: Any, unique: str
) -> None:
    old_system(channel, unique)
    channel.queue_declare("their.dead", durable=True)
    channel.queue_bind("their.dead", "dlx.old")
    harness = make_harness(adopt={unique: "dlx.old"})
    ran: list[int] = []

    def work(number: int) -> None:
        ran.append(number)
        if number == 2:
            raise SinkPermanent("no")

    actor = harness.actor(work)
    harness.broker.ping()
    harness.start()
    actor.send(1)
    actor.send(2)
    actor.send_with_options(args=(3,), delay=200)
    (letter,) = wait_until(harness.dead)
    wait_until(lambda: sorted(ran) == [1, 2, 3])
    assert letter.message.args == (2,)
    # The older system's own dead letter queue still gets it.
    wait_until(lambda: channel.queue_declare("their.dead", passive=True).method.message_count == 1)


def test_a_missing_adopted_queue_is_an_error(make_harness: MakeHarness, unique: str) -> None:
    harness = make_harness(adopt={unique})
    harness.actor(print, actor_name="collect")
    with pytest.raises(
        BrokerRefused, match=f"expected the adopted queues to exist .* no queue '{unique}'"
    ):
        harness.broker.ping()


def test_threads_that_send_at_the_same_time_declare_a_queue_once(
    make_harness: MakeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make_harness()
    actor = harness.actor(lambda: None, actor_name="work")
    declared: list[str] = []
    declare = Connection.try_calls

    def counted(connection: Connection, methods: Any) -> Any:
        declared.extend(
            method.queue for method in methods if getattr(method, "queue", "") == harness.queue
        )
        return declare(connection, methods)

    monkeypatch.setattr(Connection, "try_calls", counted)
    threads = [threading.Thread(target=actor.send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    once = len(declared)
    assert isinstance(harness.broker, RabbitBroker)
    harness.broker.client.declared.forget()
    actor.send()
    assert once == len(declared) - once > 0
