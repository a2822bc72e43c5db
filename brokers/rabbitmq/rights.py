"""Checks the rights of the RabbitMQ user by trying them; leaves no queue and no message behind."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import uuid4

from pika import spec

from .connection import Connection
from .errors import ACCESS_REFUSED, ChannelClosed
from .topology import DELAY_QUEUES, Topology, delay_name


def check_rights(connection: Connection, topology: Topology, queues: Iterable[str]) -> list[str]:
    """Try to read each queue and to write to each exchange, without leaving a trace.

    Args:
        connection: with confirms.
        queues: work queues that are declared.

    Returns:
        One line for each missing right without which a promise is weaker.

    Raises:
        ChannelClosed: a right is missing without which workers or publishers fail.
        BrokerUnavailable
    """
    for queue in queues:
        # RabbitMQ refuses the invalid argument after it has checked the right.
        consume = spec.Basic.Consume(queue=queue, arguments={"x-priority": "none"})
        _, refusal = connection.try_calls([consume])
        if refusal is not None and refusal.code == ACCESS_REFUSED:
            raise refusal
    weaknesses = _check_quarantine(connection, topology, queues)
    delays = [delay_name(bit) for bit in range(DELAY_QUEUES)]
    # A foreign exchange may be of a type that routes the message to its queues all the same.
    ours = [queue for queue in queues if not topology.is_foreign_exchange(queue)]
    connection.probe(["", *delays, *map(topology.dead_exchange, ours)])
    return weaknesses


def _check_quarantine(
    connection: Connection, topology: Topology, queues: Iterable[str]
) -> list[str]:
    """Declare and delete a quarantine queue (see :mod:`.crash_loops`) for each queue."""
    for queue in queues:
        name = topology.quarantine_queue(queue, f"doctor-{uuid4().hex[:12]}")
        try:
            connection.try_call(topology.quarantine_declaration(queue, name))
        except ChannelClosed as error:
            if error.code != ACCESS_REFUSED:
                raise
            return [
                f"a message that kills its workers is retried forever: {error.text}; give the user "
                "that right"
            ]
        connection.try_call(spec.Queue.Delete(queue=name))
    return []
