"""AMQP 0-9-1 on the wire: pika's codec, and a shorter way for what is sent and read most.

pika decodes each frame into objects, calls back through a table and copies the
rest of its buffer: more time for one small message than Dramatiq's worker and
the middleware take together. Of a delivery only its number, its flag
``redelivered``, its properties (still encoded) and its body are looked at here;
everything else is decoded by :mod:`pika.frame` and :mod:`pika.spec`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Any

import pika
from pika import frame, spec

#: Everything is done on one channel of a connection, except questions that may be refused.
CHANNEL, SIDE = 1, 2
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

#: Flags "content type" and "delivery mode" and "message id": what we write on most messages,
#: `application/json`, kept through a restart (2).
_OUR_PROPERTIES = b"\x90\x80\x10application/json\x02"
#: In the first byte of the properties' flags.
_HAS_HEADERS = 0x20


@dataclass(slots=True, eq=False)
class Content:
    """A message as it came.

    Attributes:
        consumer: the consumer's tag, for a delivery.
        number: the delivery tag.
        head: its properties, encoded.
        method: what brought it, where that was no delivery to a consumer.
    """

    consumer: bytes
    number: int
    redelivered: bool
    head: bytes = b""
    body: bytes = b""
    method: Any = None

    @property
    def has_headers(self) -> bool:
        return bool(self.head[0] & _HAS_HEADERS)

    @property
    def properties(self) -> pika.BasicProperties:
        properties = pika.BasicProperties()
        properties.decode(self.head)
        return properties

    @property
    def message_id(self) -> str | None:
        """Its id; read directly where the properties are as we write them.

        Bytes that are not UTF-8 are written as ``\\xff``: another program may give any id, and
        ours has to be text that can be written again.
        """
        start = len(_OUR_PROPERTIES)
        if self.head.startswith(_OUR_PROPERTIES):
            raw = self.head[start + 1 : start + 1 + self.head[start]]
            return raw.decode(errors="backslashreplace")
        id: str | bytes | None = self.properties.message_id  # bytes where pika cannot decode it
        return id.decode(errors="backslashreplace") if isinstance(id, bytes) else id


@dataclass(slots=True)
class Confirm:
    """RabbitMQ took (or did not take) what was published up to ``number``, or that one."""

    number: int
    multiple: bool
    taken: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server refused an operation on :data:`SIDE` and closed that channel."""

    code: int
    text: str


# -- out -----------------------------------------------------------------------------


def properties(
    message_id: str, *, priority: int | None = None, headers: dict[str, Any] | None = None
) -> bytes:
    """The encoded properties of a message of ours."""
    id = message_id.encode()
    fits = len(id) <= 255  # the protocol holds no more; the body has it too
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
    """Any properties, encoded."""
    return b"".join(properties.encode())


@lru_cache(maxsize=1024)
def _publish_method(exchange: str, routing_key: str) -> bytes:
    method = spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True)
    return bytes(frame.Method(CHANNEL, method).marshal())


def publish(exchange: str, routing_key: str, head: bytes, body: bytes, room: int) -> bytes:
    """The frames of one message, which is to be given back where no queue takes it.

    Args:
        head: its encoded properties.
        room: the most bytes of the body in one frame.
    """
    method = _publish_method(exchange, routing_key)
    header = _HEAD.pack(_HEADER, CHANNEL, 12 + len(head)) + b"\x00\x3c\x00\x00"
    pieces = [method, header, _SIZE.pack(len(body)), head, _END]
    for start in range(0, len(body), room):
        piece = body[start : start + room]
        pieces += (_HEAD.pack(_BODY, CHANNEL, len(piece)), piece, _END)
    return b"".join(pieces)


def acknowledge(number: int, *, multiple: bool = False) -> bytes:
    """Done with a delivery; ``multiple``: and with all before it."""
    return _ACK_FRAME.pack(_METHOD, CHANNEL, 13, _ACK, number, multiple, _END)


def requeue(number: int) -> bytes:
    """Encode the frame that puts a delivery back on its queue."""
    return method(spec.Basic.Nack(delivery_tag=number, requeue=True))


def method(method: Any, *, channel: int = CHANNEL) -> bytes:
    """Any method of the protocol."""
    return bytes(frame.Method(channel, method).marshal())


# -- in --------------------------------------------------------------------------------


class FrameParser:
    """Makes what it says above of the bytes that come."""

    def __init__(self) -> None:
        self._buffer = b""
        self._content: Content | None = None
        self._missing = 0
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[Any]:
        """What is complete with ``data``: :class:`Content`, :class:`Confirm`, :class:`Refusal`,
        or a pika method."""
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
                number, bits = _TAG_AND_BIT.unpack_from(buffer, at)
                self._content = Content(buffer[start + 5 : at], number, bool(bits & 1))
                return None
            if name in (_ACK, _NACK):
                number, bits = _TAG_AND_BIT.unpack_from(buffer, start + 4)
                return Confirm(number, bool(bits & 1), name == _ACK)
            return self._other(buffer[start - 7 : stop + 1])
        return None  # a heartbeat

    def _other(self, data: bytes) -> Any:
        decoded = frame.decode_frame(data)[1]
        method = decoded.method
        if decoded.channel_number == SIDE and isinstance(method, spec.Channel.Close):
            return Refusal(method.reply_code, method.reply_text)
        if isinstance(method, spec.Basic.Return | spec.Basic.GetOk):
            number = getattr(method, "delivery_tag", 0)
            self._content = Content(b"", number, False, method=method)
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
