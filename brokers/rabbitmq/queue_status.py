"""Asks RabbitMQ for the status of queues."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pika import spec

from .connection import Connection

#: Seconds. A count of 0 that took longer may be a timeout inside RabbitMQ, not the real count.
_SLOW_ANSWER = 0.2


def ready_count(connection: Connection, name: str) -> int:
    """Number of messages in a queue that are not in flight."""
    return int(queue_status(connection, name).message_count)


def queue_status(connection: Connection, name: str) -> Any:
    """Status of a queue: an answer with ``message_count`` and ``consumer_count``."""
    passive = spec.Queue.Declare(queue=name, passive=True)
    for _ in range(3):
        asked_at = time.monotonic()
        found = connection.call(passive)
        # RabbitMQ reports 0 if a quorum queue does not answer it within 0.25 s.
        if found.message_count or time.monotonic() - asked_at < _SLOW_ANSWER:
            break
    return found


def queue_statuses(connection: Connection, names: Sequence[str]) -> list[Any]:
    """Status of several queues, which must exist, in one round trip."""
    asked_at = time.monotonic()
    found = connection.calls([spec.Queue.Declare(queue=name, passive=True) for name in names])
    if time.monotonic() - asked_at < _SLOW_ANSWER:
        return found
    return [
        status if status.message_count else queue_status(connection, name)
        for name, status in zip(names, found, strict=True)
    ]
