"""Checks whether the user has the rights to send, fetch and settle, without leaving a trace."""

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
#: A routing key for which no exchange of formrelay has a binding.
_UNROUTABLE = "formrelay.nowhere"


def try_access(client: RabbitClient, queues: Iterable[str]) -> list[str]:
    """Try to write to each exchange and to read each queue.

    Returns:
        For each missing right without which a promise is weaker: a sentence about it.

    Raises:
        BrokerRefused: a right is missing without which workers or publishers fail.
        BrokerUnavailable
    """
    queues = sorted(queues)
    connection = client.connect()
    try:
        client.declared.ensure(connection, queues)
        for queue in queues:
            _try_read(connection, queue)
        weaknesses = _try_quarantine(client, connection, queues)
        _try_write(client, connection, queues)
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


def _try_write(client: RabbitClient, connection: Connection, queues: Iterable[str]) -> None:
    """Publish an unroutable message to each exchange."""
    topology = client.topology
    exchanges = ["", *(delay_name(bit) for bit in range(DELAY_QUEUES))]
    # A foreign exchange may be of a type that routes the message to its queues all the same.
    exchanges += [
        topology.dead_exchange(queue) for queue in queues if not topology.is_foreign_exchange(queue)
    ]
    connection.confirm()
    head = codec.properties("check")
    connection.publish(
        [
            codec.publish(exchange, _UNROUTABLE, head, b"?", connection.max_frame_body)
            for exchange in exchanges
        ]
    )
    deadline = time.monotonic() + connection.timeout
    while not any(confirm.delivery_tag >= len(exchanges) for confirm in connection.confirms):
        connection.wait(deadline)


def _try_read(connection: Connection, queue: str) -> None:
    """Ask for a consumer with invalid arguments, which RabbitMQ refuses after it checks the right.

    Raises:
        ChannelClosed: the right is missing.
    """
    consume = spec.Basic.Consume(queue=queue, arguments={"x-priority": "none"})
    try:
        connection.try_call(consume)
    except ChannelClosed as error:
        if error.code == _ACCESS_REFUSED:
            raise


def _try_quarantine(
    client: RabbitClient, connection: Connection, queues: Iterable[str]
) -> list[str]:
    """Declare and delete a quarantine queue (see :mod:`.crash_loops`) for each queue."""
    for queue in queues:
        name = client.topology.quarantine_queue(queue, f"doctor-{uuid4().hex[:12]}")
        try:
            connection.try_call(client.topology.quarantine_declaration(queue, name))
        except ChannelClosed as error:
            if error.code != _ACCESS_REFUSED:
                raise
            return [
                f"a message that kills its workers is retried forever: {error.text}; give the user "
                "that right"
            ]
        connection.try_call(spec.Queue.Delete(queue=name))
    return []
