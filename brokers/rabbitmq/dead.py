"""The dead letters of a queue: looked at, put back, deleted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pika import spec

from ...core.failure import Failure, Reason
from ..envelope import Undecodable, decode, quarantine, revive
from ..inspection import DeadLetter
from . import wire
from .publisher import Outgoing

if TYPE_CHECKING:
    from .broker import RabbitBroker
    from .link import Link

#: How many are asked for at one time.
_CHUNK = 100


def look(broker: RabbitBroker, queue: str, limit: int) -> list[DeadLetter]:
    """The dead letters, the oldest first; none is moved."""
    link = broker.connect()
    try:
        broker.declared.ensure(link, [queue])
        return [_letter(broker, queue, content) for content in _get(broker, link, queue, limit)]
    finally:
        link.close()  # RabbitMQ puts them all back


def take(broker: RabbitBroker, queue: str, id: str, *, put_back: bool) -> bool:
    """Take one out, and put it back on its work queue; False where there is none."""
    link = broker.connect()
    try:
        broker.declared.ensure(link, [queue])
        for content in _get(broker, link, queue, None):
            letter = _letter(broker, queue, content)
            if letter.id != id:
                continue
            if put_back:
                body = revive(letter.message)
                broker.publish([Outgoing(queue, "", queue, broker.head(id, body), body)])
            link.send(wire.acknowledge(content.number))
            return True
        return False
    finally:
        link.close()


def _get(broker: RabbitBroker, link: Link, queue: str, limit: int | None) -> Iterator[wire.Content]:
    name = broker.topology.dead_queue(queue)
    left = limit
    while left is None or left > 0:
        count = _CHUNK if left is None else min(_CHUNK, left)
        found = [
            one
            for one in link.calls([spec.Basic.Get(queue=name)] * count)
            if isinstance(one, wire.Content)
        ]
        yield from found
        if len(found) < count:
            return
        if left is not None:
            left -= count


def _letter(broker: RabbitBroker, queue: str, content: wire.Content) -> DeadLetter:
    id = content.message_id
    try:
        message = decode(content.body, queue_name=queue, job_types=broker.job_types)
    except Undecodable as error:  # buried by RabbitMQ itself, or by another program
        now = broker.clock.time()
        failure = Failure.of(error, reason=Reason.UNDECODABLE, attempt=0, now=now)
        message = quarantine(
            content.body, queue_name=queue, message_id=id or "unknown", failure=failure
        )
    return DeadLetter.of(queue, id or message.message_id, message)
