"""Messages to publish, the calls that they belong to, and their confirms."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeAlias

from ...core.errors import BrokerError
from ..errors import BrokerRefused, BrokerUnavailable
from . import codec
from .connection import Connection
from .errors import ChannelClosed, PartlyRefused, PublishInterrupted


@dataclass(frozen=True, slots=True)
class Publication:
    """A message to publish.

    Attributes:
        queue: its work queue, which is declared first; None if it goes to another queue.
        head: encoded properties.
    """

    queue: str | None
    exchange: str
    routing_key: str
    head: bytes
    body: bytes


class PublishCall:
    """The messages of one call and their confirms.

    Attributes:
        waiting: the messages that are not confirmed or were returned, by position.
        is_sent: whether a message may have reached the server.
        nacked: positions of the messages that the server did not take.
    """

    def __init__(self, messages: Sequence[Publication]) -> None:
        self.waiting = dict(enumerate(messages))
        self.is_sent = False
        self._count = len(messages)
        self.nacked: list[int] = []

    @property
    def queues(self) -> set[str]:
        """The work queues of the waiting messages, to declare first."""
        return {each.queue for each in self.waiting.values() if each.queue is not None}

    def queue_to_share(self, max_bytes: int) -> str | None:
        """The work queue of a single message of at most ``max_bytes``; None for other calls."""
        if len(self.waiting) != 1:
            return None
        (message,) = self.waiting.values()
        return message.queue if len(message.body) <= max_bytes else None

    def with_counts(self, error: BrokerUnavailable | ChannelClosed) -> BrokerError:
        """Return the error, with the number of messages that are on their queues in its text."""
        taken = self._count - len(self.waiting) - len(self.nacked)
        text = "; nothing was enqueued"
        if self.is_sent:
            text = (
                f"; of {self._count} messages {taken} are on their queues, and any of the other "
                f"{self._count - taken} may be"
            )
        if isinstance(error, ChannelClosed):
            if self.is_sent:
                return PublishInterrupted(
                    error.message + text, error, sorted((*self.waiting, *self.nacked))
                )
            return BrokerRefused(error.message + text)
        return type(error)(error.message + text)

    def raise_for_refused(self) -> None:
        """Raise :class:`PartlyRefused` if messages were returned or nacked."""
        refused = sorted((*self.waiting, *self.nacked))
        if not refused:
            return
        cause = "it has no queue for them; check that their queues exist"
        if self.nacked:
            cause = "it did not take them (nack); check whether a queue is full"
        raise PartlyRefused(
            f"RabbitMQ refused {len(refused)} of {self._count} messages, the others are on their "
            f"queues; {cause}",
            refused,
            self._count,
        )


#: A call, the position of a message in it, and the message.
_Sent: TypeAlias = tuple[PublishCall, int, Publication]


def publish_and_confirm(connection: Connection, calls: Sequence[PublishCall]) -> None:
    """Publish the unconfirmed messages of all calls in one write, and wait for their confirms.

    Returns when each message is confirmed, nacked or returned.

    Raises:
        BrokerUnavailable, ChannelClosed: some messages may be on their queues.
    """
    messages = [(call, position, one) for call in calls for position, one in call.waiting.items()]
    # Confirms count the messages published on the connection, from 1.
    by_tag = dict(enumerate(messages, start=connection.published + 1))
    for call in calls:
        call.is_sent = True
    size = connection.max_frame_body
    connection.publish(
        [
            codec.publish(each.exchange, each.routing_key, each.head, each.body, size)
            for _, _, each in messages
        ]
    )
    returned: set[int] = set()
    deadline = time.monotonic() + connection.timeout
    while by_tag:
        if not connection.confirms:
            connection.wait(deadline)
            continue
        # The server returns a message before it confirms it.
        for content in connection.returned:
            returned.add(_tag_of(content, by_tag, returned))
        connection.returned.clear()
        _apply_confirms(connection.confirms, by_tag, returned)
        deadline = time.monotonic() + connection.timeout


def _tag_of(content: codec.Content, by_tag: dict[int, _Sent], returned: set[int]) -> int:
    method, body = content.method, content.body
    return next(
        tag
        for tag, (_, _, each) in by_tag.items()
        if tag not in returned
        and (each.exchange, each.routing_key) == (method.exchange, method.routing_key)
        and each.body == body
    )


def _apply_confirms(
    confirms: deque[codec.Confirm], by_tag: dict[int, _Sent], returned: set[int]
) -> None:
    while confirms:
        confirm = confirms.popleft()
        last = confirm.delivery_tag
        tags = [last]
        if confirm.multiple:
            tags = list(takewhile(last.__ge__, by_tag))
        for tag in tags:
            sent = by_tag.pop(tag, None)
            if sent is None or tag in returned:
                continue
            call, position, _ = sent
            del call.waiting[position]
            if not confirm.taken:
                call.nacked.append(position)
