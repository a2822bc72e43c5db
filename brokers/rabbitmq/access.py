"""Whether our user may do what a send, a fetch and a settlement need: tried, without a trace."""

from __future__ import annotations

import time
from collections.abc import Iterable
from uuid import uuid4

from pika import spec

from ..errors import BrokerRefused
from . import codec
from .client import RabbitClient
from .connection import Connection
from .errors import ChannelClosed
from .topology import DELAY_QUEUES, delay_name

_ACCESS_REFUSED = 403
#: A routing key by which no exchange of ours finds a queue.
_NOWHERE = "formrelay.nowhere"


def try_access(client: RabbitClient, queues: Iterable[str]) -> list[str]:
    """Try to write to each exchange and to read each queue.

    Returns:
        What the user may not do that makes promises weaker.

    Raises:
        BrokerRefused: the first thing that is not allowed and has to be.
        BrokerUnavailable
    """
    queues = sorted(queues)
    connection = client.connect()
    try:
        client.declared.ensure(connection, queues)
        for queue in queues:
            _read(connection, queue)
        weaknesses = _try_quarantine(client, connection, queues)
        _write(client, connection, queues)
    except ChannelClosed as error:
        if error.code != _ACCESS_REFUSED:
            raise
        raise BrokerRefused(
            f"expected the right to send, fetch and settle, got: {error.text}; docs/brokers.md "
            "says which rights a user needs"
        ) from None
    finally:
        connection.close()
    return weaknesses


def _write(client: RabbitClient, connection: Connection, queues: Iterable[str]) -> None:
    """Publish to each exchange something that no queue takes."""
    topology = client.topology
    exchanges = ["", *(delay_name(rung) for rung in range(DELAY_QUEUES))]
    # One of another system may be of a type that gives it to its queues all the same.
    exchanges += [
        topology.dead_exchange(queue) for queue in queues if not topology.is_foreign_exchange(queue)
    ]
    connection.confirm()
    head = codec.properties("check")
    connection.publish(
        [codec.publish(one, _NOWHERE, head, b"?", connection.body_room) for one in exchanges]
    )
    deadline = time.monotonic() + connection.timeout
    while not any(confirm.number >= len(exchanges) for confirm in connection.confirms):
        connection.wait(deadline)


def _read(connection: Connection, queue: str) -> None:
    """Ask for a consumer that RabbitMQ refuses for its arguments, after looking at our rights."""
    consume = spec.Basic.Consume(queue=queue, arguments={"x-priority": "none"})
    try:
        connection.ask(consume)
    except ChannelClosed as error:
        if error.code == _ACCESS_REFUSED:
            raise


def _try_quarantine(
    client: RabbitClient, connection: Connection, queues: Iterable[str]
) -> list[str]:
    """Whether quarantine queues can be declared (see :mod:`.crash_loops`)."""
    for queue in queues:
        name = client.topology.quarantine_queue(queue, f"doctor-{uuid4().hex[:12]}")
        try:
            connection.ask(client.topology.quarantine(queue, name))
        except ChannelClosed as error:
            if error.code != _ACCESS_REFUSED:
                raise
            return [
                f"a message that kills its workers is retried forever: {error.text}; give the user "
                "that right"
            ]
        connection.ask(spec.Queue.Delete(queue=name))
    return []
