"""Messages that RabbitMQ refuses in a settlement stay in flight and block no others."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import Any

import pytest

from formrelay.brokers.contract import BrokerOptions
from formrelay.core.errors import SinkPermanent
from formrelay.core.failure import Reason
from formrelay.core.outcomes import DONE, Defer, Outcome
from formrelay.core.retry import RetryPolicy, Schedule
from tests.brokers.rabbitmq.conftest import MakeHarness
from tests.support.harness import Harness
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.shared_vhost]

SOON = RetryPolicy(max_attempts=3, jitter=0, backoff=Schedule((timedelta(0),)))
# -- undecodable bytes ---------------------------------------------------------------------------


def test_undecodable_bytes_are_dead_lettered_unchanged_with_the_failure_in_a_header(
    harness: Harness, channel: Any
) -> None:
    data = bytes(range(256))
    harness.actor(print, actor_name="note")
    harness.inject(data)
    harness.start()
    (letter,) = wait_until(harness.dead)
    harness.stop()
    method, properties, body = channel.basic_get(f"dlq.{harness.queue}")
    assert body == data
    assert json.loads(properties.headers["x-formrelay-failure"])["reason"] == "undecodable"
    channel.basic_nack(method.delivery_tag)
    assert letter.failure.reason is Reason.UNDECODABLE
    assert harness.broker.replay(harness.queue, letter.id)
    assert channel.basic_get(harness.queue)[2] == data


# -- a queue that is full ------------------------------------------------------------------------


def test_dead_letters_refused_by_a_full_queue_block_nothing_and_are_written_later(
    make_harness: MakeHarness, channel: Any, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    dead = f"dlq.{unique}"
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare(dead, durable=True, arguments=arguments)
    options = BrokerOptions(heartbeat_timeout=timedelta(seconds=1))
    harness = make_harness(adopt={dead}, options=options)

    def count() -> int:
        found: int = channel.queue_declare(dead, passive=True).method.message_count
        return found

    def fail(number: int) -> None:
        raise SinkPermanent("no")

    ran: list[int] = []
    failing = harness.actor(fail, actor_name="fail")
    note = harness.actor(ran.append, actor_name="note")
    with caplog.at_level(logging.ERROR, logger="formrelay.brokers"):
        for number in range(3):
            failing.send(number)
        harness.inject(b"not JSON")
        harness.start(threads=2)
        for number in range(20):
            note.send(number)
        # Three letters were refused, and there are two threads.
        wait_until(lambda: sorted(ran) == list(range(20)))
        wait_until(lambda: count() == 1)
        lines = [line for line in caplog.records if "stay in flight" in line.message]
        assert len(lines) <= 2
        # There is room again: no restart is needed.
        channel.queue_purge(dead)
        wait_until(lambda: count() == 1)


# -- a connection that was lost ------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [DONE, Defer(timedelta(0), "busy")], ids=["done", "defer"])
def test_a_message_of_a_lost_connection_settles_none_of_the_next_connection(
    harness: Harness, channel: Any, outcome: Outcome
) -> None:
    actor = harness.actor(print, actor_name="note")
    actor.send(1)
    consumer: Any = harness.broker.consume(harness.queue, prefetch=1, timeout=100)
    early = wait_until(lambda: consumer.receive(0.1))
    consumer._subscription.connection._socket.shutdown(2)
    # Another worker takes it over and finishes it.
    wait_until(lambda: channel.basic_get(harness.queue, auto_ack=True)[0])
    actor.send(2)
    late = wait_until(lambda: consumer.receive(0.1))
    assert (late.args, late.tag.delivery_tag) == ((2,), early.tag.delivery_tag)
    consumer.settle(early, outcome)
    consumer.receive(0)
    consumer._subscription.synchronise()
    consumer._subscription.connection.abort()
    wait_until(lambda: harness.broker.counts(harness.queue).waiting == 1)
    assert b'"args":[2]' in channel.basic_get(harness.queue)[2]
