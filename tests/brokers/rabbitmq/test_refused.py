"""Messages that RabbitMQ refuses in a settlement stay in flight and block no others."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from threading import Event
from typing import Any

import pytest

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.envelope import encode
from formrelay.core.errors import SinkPermanent, SinkTransient
from formrelay.core.failure import Reason
from formrelay.core.outcomes import DONE, Defer, Outcome
from formrelay.core.retry import RetryPolicy, Schedule
from tests.brokers.rabbitmq.conftest import MakeHarness
from tests.conftest import own
from tests.support.harness import Harness
from tests.support.servers import RabbitServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.shared_vhost]

SOON = RetryPolicy(max_attempts=3, jitter=0, backoff=Schedule((timedelta(0),)))
#: The largest message that the server of these tests takes.
LIMIT = 100_000


class SmallServer(RabbitServer):
    """A server that refuses messages larger than LIMIT."""

    def _config(self) -> str:
        return super()._config() + f"max_message_size = {LIMIT}\n"


@pytest.fixture(scope="module")
def small_server() -> Iterator[RabbitServer]:
    """Starts in 5 s, so one server for all tests of this module."""
    with own(SmallServer) as server:
        yield server


@pytest.fixture
def small(make_harness: MakeHarness, small_server: RabbitServer) -> Harness:
    return make_harness(url=small_server.url)


def filled(actor: Any, **options: Any) -> Any:
    """A message of the actor that is a few bytes smaller than LIMIT."""
    empty = actor.message_with_options(kwargs={"text": ""}, **options)
    return empty.copy(kwargs={"text": "x" * (LIMIT - 10 - len(encode(empty)))})


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


# -- too large -----------------------------------------------------------------------------------


def test_undecodable_bytes_near_the_servers_limit_are_dead_lettered(small: Harness) -> None:
    ran = Event()
    actor = small.actor(ran.set, actor_name="note")
    small.inject(b"\xff" * (LIMIT - 10))
    actor.send()
    small.start()
    (letter,) = wait_until(small.dead)
    assert letter.failure.reason is Reason.UNDECODABLE
    assert ran.wait(60)
    wait_until(small.is_empty)


@pytest.mark.parametrize("error", [SinkPermanent("no"), SinkTransient("away")])
def test_a_message_whose_failure_record_makes_it_too_large_is_dead_lettered_as_received(
    small: Harness, error: Exception
) -> None:
    works, ran = Event(), Event()

    def fail(text: str) -> None:
        if not works.is_set():
            raise error

    actor = small.actor(fail, actor_name="fail", policy=SOON)
    message = filled(actor)
    small.broker.enqueue(message)
    small.actor(ran.set, actor_name="note").send()
    small.start(threads=1)
    (letter,) = wait_until(small.dead)
    assert ran.wait(60)
    wait_until(small.is_empty)
    if isinstance(error, SinkPermanent):
        assert letter.failure.reason is Reason.PERMANENT
        assert letter.message.kwargs == message.kwargs
    else:
        assert letter.failure.reason is Reason.UNDECODABLE
        assert "message size" in letter.failure.message
    works.set()
    assert small.broker.replay(small.queue, letter.id)
    wait_until(lambda: not small.dead() and small.is_empty())


def test_a_batch_that_is_too_large_to_freeze_is_retried_part_by_part(
    small: Harness,
) -> None:
    batches: list[int] = []

    def fail_at_first(batch: list[Any]) -> None:
        batches.append(len(batch))
        if len(batches) == 1:
            raise SinkTransient("away")

    actor = small.actor(
        fail_at_first,
        actor_name="collect",
        policy=SOON,
        batch_size=4,
        batch_wait=timedelta(seconds=2),
    )
    for _ in range(4):
        actor.send(text="x" * (LIMIT // 3))
    small.start()
    wait_until(lambda: sum(batches) == 8 and small.is_empty())
    assert small.dead() == []


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
