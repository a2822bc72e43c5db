"""Publishing with confirms; errors name the messages that were refused."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
from typing import Any

import pytest

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.errors import BrokerRefused
from formrelay.brokers.rabbitmq import codec, topology
from formrelay.brokers.rabbitmq.errors import PartlyRefused
from formrelay.brokers.rabbitmq.publish_call import Publication
from tests.brokers.rabbitmq.conftest import MakeHarness
from tests.support.harness import Harness
from tests.support.threads import at_once
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.shared_vhost]


def test_the_error_of_a_full_queue_names_the_refused_messages(
    make_harness: MakeHarness, channel: Any, unique: str
) -> None:
    arguments = {"x-max-length": 3, "x-overflow": "reject-publish"}
    channel.queue_declare(unique, durable=True, arguments=arguments)
    harness = make_harness(adopt={unique})
    actor = harness.actor(print, actor_name="collect")
    with pytest.raises(PartlyRefused, match=r"refused 7 of 10 messages.*\(nack\)") as raised:
        harness.broker.enqueue_many(actor.message(number) for number in range(10))
    assert raised.value.refused == tuple(range(3, 10))
    assert harness.broker.counts(unique).waiting == 3
    with pytest.raises(BrokerRefused, match="refused 1 of 1"):
        actor.send(1)


def test_a_queue_that_was_deleted_is_declared_again_and_takes_the_message(
    harness: Harness, channel: Any
) -> None:
    actor = harness.actor(print, actor_name="collect")
    actor.send(1)
    channel.queue_delete(harness.queue)
    harness.broker.enqueue_many(actor.message(number) for number in range(20))
    assert harness.broker.counts(harness.queue).waiting == 20
    channel.exchange_delete(topology.delay_name(6))
    actor.send_with_options(args=(3,), delay=10_000)


def test_a_deleted_adopted_queue_is_an_error_and_not_declared_again(
    make_harness: MakeHarness, channel: Any, unique: str
) -> None:
    channel.queue_declare(unique, durable=True)
    harness = make_harness(adopt={unique})
    actor = harness.actor(print, actor_name="collect")
    actor.send(1)
    channel.queue_delete(unique)
    with pytest.raises(BrokerRefused, match=r"expected the adopted queues to exist"):
        actor.send(2)


def test_many_threads_send_at_once(harness: Harness) -> None:
    actor = harness.actor(print, actor_name="collect")

    def send(_number: int) -> None:
        for number in range(50):
            actor.send(number)

    at_once(send, range(8))
    assert harness.broker.counts(harness.queue).waiting == 400


def test_a_forked_child_and_its_parent_use_different_connections(harness: Harness) -> None:
    actor = harness.actor(print, actor_name="collect")
    actor.send(1)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            actor.send(2)
            harness.broker.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    (connection,) = harness.broker.client._idle  # type: ignore[attr-defined]
    actor.send(3)
    assert list(harness.broker.client._idle) == [connection]  # type: ignore[attr-defined]
    assert harness.broker.counts(harness.queue).waiting == 3


def test_an_idle_connection_that_the_server_closed_is_replaced_silently(
    make_harness: MakeHarness, rabbitmq_url: str
) -> None:
    harness = make_harness(url=f"{rabbitmq_url}?heartbeat=1")
    actor = harness.actor(print, actor_name="collect")
    actor.send(1)
    (connection,) = harness.broker.client._idle  # type: ignore[attr-defined]

    def is_dropped() -> bool:
        readable, _, _ = select.select([connection._socket], [], [], 0)
        # Heartbeats have arrived meanwhile; the check leaves them unread.
        return bool(readable) and _ends(connection._socket)

    wait_until(is_dropped)
    actor.send(2)
    assert harness.broker.counts(harness.queue).waiting == 2
    assert connection not in harness.broker.client._idle  # type: ignore[attr-defined]


def _ends(connection: Any) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    unread = struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, b"\0" * 4))[0]
    return bool(poll.poll(0)) and unread >= 0


def test_large_messages_are_split_into_frames_and_received_complete(
    make_harness: MakeHarness,
) -> None:
    harness = make_harness(options=BrokerOptions(max_message_bytes=2_000_000))
    ran: list[str] = []
    actor = harness.actor(ran.append, actor_name="collect")
    texts = [str(number) * 150_000 for number in range(10, 60)]
    harness.broker.enqueue_many(actor.message(text) for text in texts)
    harness.start(threads=1)
    wait_until(lambda: len(ran) == len(texts))
    assert ran == texts


def test_returned_messages_do_not_block_the_publisher(
    make_harness: MakeHarness, channel: Any, unique: str
) -> None:
    """The server returns every message with its body while the publisher still sends."""
    channel.exchange_declare("nowhere", exchange_type="fanout", durable=True)
    harness = make_harness()
    harness.actor(print, actor_name="collect")
    body = b"x" * 200_000
    lost = [
        Publication(unique, "nowhere", unique, codec.properties(str(number)), body)
        for number in range(60)
    ]
    kept = Publication(unique, "", unique, codec.properties("kept"), b"{}")
    with pytest.raises(PartlyRefused, match=r"refused 60 of 61 messages.*no queue") as raised:
        harness.broker.client.publish([*lost, kept])  # type: ignore[attr-defined]
    assert raised.value.refused == tuple(range(60))
    assert harness.broker.counts(unique).waiting == 1
