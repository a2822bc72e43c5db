"""AMQP 0-9-1 frames: pika's codec, with a fast path for publishes, deliveries and acknowledgements.

pika decodes each frame into objects, dispatches it through a table of callbacks and copies the rest
of its buffer. For a small message that takes more time than Dramatiq's worker and the middleware
together. The fast path reads only the tag, ``redelivered`` flag, encoded properties and body of a
delivery; :mod:`pika.frame` and :mod:`pika.spec` decode everything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Any

import pika
from pika import frame, spec

#: Channel numbers. Only operations that may be refused use the side channel.
CHANNEL, SIDE_CHANNEL = 1, 2
GREETING = b"AMQP\x00\x00\x09\x01"
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"

_HEAD = Struct(">BHI")
_TAG_AND_BIT = Struct(">QB")
_SIZE = Struct(">Q")
_METHOD, _HEADER, _BODY = 1, 2, 3
_END = b"\xce"
_DELIVER = b"\x00\x3c\x00\x3c"
_ACK = b"\x00\x3c\x00\x50"
_NACK = b"\x00\x3c\x00\x78"
_ACK_FRAME = Struct(">BHI4sQBc")

#: The properties of most messages up to the message id: flags (content type, delivery mode and
#: message id), content type ``application/json``, delivery mode 2 (persistent).
_OUR_PROPERTIES = b"\x90\x80\x10application/json\x02"
#: Bit in the first byte of the property flags.
_HAS_HEADERS = 0x20


@dataclass(slots=True, eq=False)
class Content:
    """A received message.

    Attributes:
        consumer: consumer tag; empty if the message was not delivered to a consumer.
        delivery_tag: 0 for a returned message.
        head: encoded properties.
        method: the method that brought it, if not ``Basic.Deliver``.
        decoded: the properties, once they were decoded.
    """

    consumer: bytes
    delivery_tag: int
    redelivered: bool
    head: bytes = b""
    body: bytes = b""
    method: Any = None
    decoded: pika.BasicProperties | None = None

    @property
    def has_headers(self) -> bool:
        return bool(self.head[0] & _HAS_HEADERS)

    @property
    def properties(self) -> pika.BasicProperties:
        if self.decoded is None:
            self.decoded = pika.BasicProperties()
            self.decoded.decode(self.head)
        return self.decoded

    @property
    def message_id(self) -> str | None:
        """Message id; bytes that are not UTF-8 are escaped as ``\\xff``.

        Read without decoding the properties if they begin as ours do.
        """
        start = len(_OUR_PROPERTIES)
        if self.head.startswith(_OUR_PROPERTIES):
            raw = self.head[start + 1 : start + 1 + self.head[start]]
            return raw.decode(errors="backslashreplace")
        id: str | bytes | None = self.properties.message_id  # bytes if pika cannot decode it
        return id.decode(errors="backslashreplace") if isinstance(id, bytes) else id


@dataclass(slots=True)
class Confirm:
    """A publisher confirm.

    Attributes:
        delivery_tag: number of the published message on its channel, from 1.
        multiple: whether it confirms all earlier messages too.
        taken: False for a nack.
    """

    delivery_tag: int
    multiple: bool
    taken: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """RabbitMQ refused an operation on :data:`SIDE_CHANNEL` and closed that channel."""

    code: int
    text: str


# -- encode --------------------------------------------------------------------------


def properties(
    message_id: str, *, priority: int | None = None, headers: dict[str, Any] | None = None
) -> bytes:
    """Encode the properties of a message that formrelay publishes."""
    id = message_id.encode()
    fits = len(id) <= 255  # AMQP's limit; the body holds the id too
    if fits and priority is None and headers is None:
        return b"%b%c%b" % (_OUR_PROPERTIES, len(id), id)
    return encoded(
        pika.BasicProperties(
            content_type="application/json",
            delivery_mode=2,
            message_id=message_id if fits else None,
            priority=priority,
            headers=headers,
        )
    )


def encoded(properties: pika.BasicProperties) -> bytes:
    """Encode any properties."""
    return b"".join(properties.encode())


@lru_cache(maxsize=128)  # the routing keys of delays are hardly ever the same
def _publish_method(exchange: str, routing_key: str) -> bytes:
    method = spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True)
    return bytes(frame.Method(CHANNEL, method).marshal())


def publish(
    exchange: str, routing_key: str, head: bytes, body: bytes, max_frame_body: int
) -> bytes:
    """Encode the frames of one mandatory message: RabbitMQ returns it if no queue takes it.

    Args:
        head: encoded properties.
        max_frame_body: maximum number of bytes of the body in one frame.
    """
    method = _publish_method(exchange, routing_key)
    header = _HEAD.pack(_HEADER, CHANNEL, 12 + len(head)) + b"\x00\x3c\x00\x00"
    pieces = [method, header, _SIZE.pack(len(body)), head, _END]
    for start in range(0, len(body), max_frame_body):
        piece = body[start : start + max_frame_body]
        pieces += (_HEAD.pack(_BODY, CHANNEL, len(piece)), piece, _END)
    return b"".join(pieces)


def acknowledge(delivery_tag: int, *, multiple: bool = False) -> bytes:
    """Encode an acknowledgement of a delivery; ``multiple``: of all earlier deliveries too."""
    return _ACK_FRAME.pack(_METHOD, CHANNEL, 13, _ACK, delivery_tag, multiple, _END)


def requeue(delivery_tag: int) -> bytes:
    """Encode the frame that puts a delivery back on its queue."""
    return method(spec.Basic.Nack(delivery_tag=delivery_tag, requeue=True))


def method(method: Any, *, channel: int = CHANNEL) -> bytes:
    """Encode any AMQP method."""
    return bytes(frame.Method(channel, method).marshal())


# -- decode ------------------------------------------------------------------------------


class FrameParser:
    """Parses received bytes into messages, confirms, refusals and pika methods."""

    def __init__(self) -> None:
        self._buffer = b""
        self._content: Content | None = None
        self._missing = 0
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[Any]:
        """Parse ``data``.

        Yields:
            Everything that is complete with it: :class:`Content`, :class:`Confirm`,
            :class:`Refusal` or a pika method.
        """
        buffer = self._buffer + data if self._buffer else data
        at, end = 0, len(buffer)
        while end - at >= 8:
            kind, _, size = _HEAD.unpack_from(buffer, at)
            start = at + 7
            stop = start + size
            if stop >= end:
                break
            found = self._frame(kind, buffer, start, stop)
            at = stop + 1
            if found is not None:
                yield found
        self._buffer = buffer[at:]

    def _frame(self, kind: int, buffer: bytes, start: int, stop: int) -> Any:
        if kind == _BODY:
            return self._body(buffer[start:stop])
        if kind == _HEADER:
            return self._header(buffer, start, stop)
        if kind == _METHOD:
            name = buffer[start : start + 4]
            if name == _DELIVER:
                at = start + 5 + buffer[start + 4]
                delivery_tag, bits = _TAG_AND_BIT.unpack_from(buffer, at)
                self._content = Content(buffer[start + 5 : at], delivery_tag, bool(bits & 1))
                return None
            if name in (_ACK, _NACK):
                delivery_tag, bits = _TAG_AND_BIT.unpack_from(buffer, start + 4)
                return Confirm(delivery_tag, bool(bits & 1), name == _ACK)
            return self._other(buffer[start - 7 : stop + 1])
        return None  # a heartbeat

    def _other(self, data: bytes) -> Any:
        decoded = frame.decode_frame(data)[1]
        method = decoded.method
        if decoded.channel_number == SIDE_CHANNEL and isinstance(method, spec.Channel.Close):
            return Refusal(method.reply_code, method.reply_text)
        if isinstance(method, spec.Basic.Return | spec.Basic.GetOk):
            delivery_tag = getattr(method, "delivery_tag", 0)
            self._content = Content(b"", delivery_tag, False, method=method)
            return None
        return method

    def _header(self, buffer: bytes, start: int, stop: int) -> Content | None:
        assert self._content is not None
        (self._missing,) = _SIZE.unpack_from(buffer, start + 4)
        self._content.head = buffer[start + 12 : stop]
        return self._content if self._missing == 0 else None

    def _body(self, piece: bytes) -> Content | None:
        content = self._content
        assert content is not None
        self._missing -= len(piece)
        if self._missing > 0 or self._pieces:
            self._pieces.append(piece)
            if self._missing > 0:
                return None
            piece, self._pieces = b"".join(self._pieces), []
        content.body = piece
        return content
