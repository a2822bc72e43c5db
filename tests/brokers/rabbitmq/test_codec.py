"""Received frames are parsed however the bytes are split."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pika
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from formrelay.brokers.rabbitmq import codec

FRAME_ROOM = 50


def delivery(number: int, redelivered: bool, head: bytes, body: bytes) -> bytes:
    """Encode a delivery: a published message with another method frame."""
    method = spec.Basic.Deliver("work", number, redelivered, "", "queue")
    published = codec.publish("", "queue", head, body, FRAME_ROOM)
    as_published = spec.Basic.Publish(exchange="", routing_key="queue", mandatory=True)
    rest = published.removeprefix(codec.method(as_published))
    return bytes(frame.Method(codec.CHANNEL, method).marshal()) + rest


@given(
    st.lists(st.tuples(st.booleans(), st.text(max_size=60), st.binary(max_size=200)), max_size=10),
    st.lists(st.integers(0, 2_000), max_size=20),
)
def test_messages_are_complete_and_in_order(
    messages: list[tuple[bool, str, bytes]], cuts: list[int]
) -> None:
    data = codec.acknowledge(9, multiple=True) + codec.HEARTBEAT
    for number, (redelivered, id, body) in enumerate(messages, start=1):
        data += delivery(number, redelivered, codec.properties(id), body)
    data += codec.method(spec.Basic.Nack(delivery_tag=5)) + codec.method(spec.Channel.OpenOk())
    parser = codec.FrameParser()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    found: list[Any] = []
    for start, stop in pairwise(places):
        found += parser.feed(data[start:stop])
    first, *contents, nack, method = found
    assert first == codec.Confirm(9, multiple=True, taken=True)
    assert (nack.delivery_tag, nack.taken) == (5, False)
    assert isinstance(method, spec.Channel.OpenOk)
    assert [
        (one.delivery_tag, one.redelivered, one.message_id, one.body, one.consumer)
        for one in contents
    ] == [
        (number, redelivered, id, body, b"work")
        for number, (redelivered, id, body) in enumerate(messages, start=1)
    ]


def test_properties_equal_those_of_pika() -> None:
    plain = pika.BasicProperties(
        content_type="application/json", delivery_mode=2, message_id="an id"
    )
    assert codec.properties("an id") == codec.encoded(plain)
    for extra in ({"priority": 3}, {"headers": {"a": 1}}):
        expected = pika.BasicProperties(
            content_type="application/json", delivery_mode=2, message_id="an id", **extra
        )
        assert codec.properties("an id", **extra) == codec.encoded(expected)  # type: ignore[arg-type]
    content = codec.Content(b"", 1, False, head=codec.properties("x", headers={"a": 1}))
    assert content.has_headers
    assert content.message_id == "x"
    long = codec.Content(b"", 1, False, head=codec.properties("é" * 200))
    assert long.message_id is None
