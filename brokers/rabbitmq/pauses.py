"""Which queues are paused, for the workers of all processes.

AMQP knows no such thing. Here a queue ``formrelay.paused.<queue>`` holds one message
while ``<queue>`` is paused. That outlasts restarts, stands on the management pages, and
is asked for by declaring the queue, which says how many messages it holds. Workers
must not ask by publishing: a server that is short of memory stops listening to whoever
publishes, and would hear of no acknowledgement either.
"""

from __future__ import annotations

from typing import Any

from pika import spec

from . import wire
from .link import Link
from .publisher import Outgoing

_HEAD = wire.properties("paused")


def marker(queue: str) -> str:
    """The name of the queue that says whether ``queue`` is paused."""
    return f"formrelay.paused.{queue}"


def is_paused(link: Link, queue: str) -> bool:
    """Whether a queue is paused."""
    return bool(link.call(_declaration(queue)).message_count)


def order(queue: str) -> Outgoing:
    """The message that pauses a queue; one more of it changes nothing."""
    return Outgoing(queue, "", marker(queue), _HEAD, b"")


def resume(link: Link, queue: str) -> None:
    """Resume a queue, whether or not it is paused."""
    link.calls([_declaration(queue), spec.Queue.Purge(queue=marker(queue))])


def _declaration(queue: str) -> Any:
    one = {"x-queue-type": "classic", "x-max-length": 1}
    return spec.Queue.Declare(queue=marker(queue), durable=True, arguments=one)
