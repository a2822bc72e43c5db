"""Locks the dead letters of a queue: only one process at a time reads or changes them.

The waiting messages of a queue have a lock of their own, for processes that move them.

The lock is an exclusive queue, which RabbitMQ deletes with its connection, also when the process is
killed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pika import spec

from ..errors import BrokerRefused, BrokerUnavailable
from .connection import Connection
from .errors import ACCESS_REFUSED, RESOURCE_LOCKED

#: Seconds to wait until another process is done.
_LOCK_TIMEOUT = 30.0


def lock_name(queue: str, *, waiting: bool) -> str:
    """Name in the lock and the marker: of the dead letters of a queue, or of its waiting messages.

    No other queue has the second name, since formrelay gives its own queues no such names.
    """
    return f"{queue}.(waiting)" if waiting else queue


@contextmanager
def exclusive_access(connection: Connection, queue: str) -> Iterator[None]:
    """Lock the dead letters of a queue.

    A second lock makes the waiting processes fair: its owner is the next to read.
    """
    name, next_name = f"formrelay.look.{queue}", f"formrelay.look.next.{queue}"
    deadline = time.monotonic() + _LOCK_TIMEOUT
    _claim(connection, next_name, queue, deadline)
    try:
        _claim(connection, name, queue, deadline)
    finally:
        _release(connection, next_name)
    try:
        yield
    finally:
        _release(connection, name)


def _claim(connection: Connection, name: str, queue: str, deadline: float) -> None:
    claim = spec.Queue.Declare(queue=name, exclusive=True, arguments={"x-queue-type": "classic"})
    pause = 0.01
    while (refusal := connection.try_calls([claim])[1]) is not None:
        if refusal.code == ACCESS_REFUSED:
            raise BrokerRefused(
                f"expected the right to configure {name!r}, the lock for reading dead letters, "
                f"got: {refusal.text}; give the user that right (see docs/brokers.md)"
            )
        if refusal.code != RESOURCE_LOCKED:
            raise refusal
        if time.monotonic() > deadline:
            raise BrokerUnavailable(
                f"expected access to the dead letters of {queue!r} within {_LOCK_TIMEOUT:g} s, but "
                "another process is listing, replaying or deleting them; try again"
            )
        time.sleep(pause)
        pause = min(2 * pause, 0.1)  # RabbitMQ logs each failed try


def _release(connection: Connection, name: str) -> None:
    with suppress(BrokerUnavailable, BrokerRefused):
        connection.call(spec.Queue.Delete(queue=name))


def marker(queue: str, *, passive: bool = False) -> spec.Exchange.Declare:
    """The declaration of the exchange that exists while letters of ``queue`` are moved."""
    name = f"formrelay.look.moving.{queue}"
    return spec.Exchange.Declare(exchange=name, type="direct", durable=True, passive=passive)


def remove_marker(connection: Connection, queue: str) -> None:
    """Note that no letter of ``queue`` is in the dead-letter queue twice."""
    connection.call(spec.Exchange.Delete(exchange=marker(queue).exchange))
