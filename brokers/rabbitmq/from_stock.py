"""Moves the messages of stock Dramatiq's queues to formrelay's queues, to start using formrelay.

Stock declares the queues ``Q``, ``Q.DQ`` (delayed) and ``Q.XQ`` (dead). RabbitMQ cannot change the
arguments of ``Q``, so its messages wait in a staging queue while it is deleted and declared again.
A message is acknowledged after RabbitMQ has confirmed its copy: an interruption loses nothing, and
the next run continues. A message can then be on its queue twice, which at-least-once allows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import orjson
from dramatiq.common import dq_name, xq_name
from pika import spec

from ...middleware.delivery import RETRIES
from ..errors import BrokerRefused, BrokerUnavailable
from . import codec
from .client import RabbitClient
from .connection import Connection
from .deaths import death_in
from .errors import PRECONDITION_FAILED, ChannelClosed
from .publish_call import Publication
from .queue_status import queue_status, ready_count

#: Number of messages that are fetched, and copied in one call.
_CHUNK = 200
#: Seconds to wait for the last consumer: a queue notices with a delay that a worker has stopped.
_LEAVE_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The number of messages that formrelay took over from stock Dramatiq's queues.

    Attributes:
        waiting: from the work queue, including messages that an interrupted run left on their way.
        scheduled: from ``Q.DQ``; a worker schedules them for the time that they contain.
        dead: from ``Q.XQ``.
    """

    queue: str
    waiting: int = 0
    scheduled: int = 0
    dead: int = 0


def take_over_queue(client: RabbitClient, queue: str, *, dry_run: bool = False) -> TakenOver | None:
    """Move the messages of stock Dramatiq's queues to formrelay's, and delete stock's queues.

    An adopted work queue stays; its delayed and dead messages are moved. First stop every process
    of stock Dramatiq that sends or runs messages.

    Returns:
        None if stock Dramatiq has no such queues.

    Raises:
        BrokerRefused: a process still uses the queues.
        BrokerUnavailable
    """
    return _TakeOver(client, queue).run(dry_run)


class _TakeOver:
    def __init__(self, client: RabbitClient, queue: str) -> None:
        self._client, self._queue = client, queue
        self._staging = f"formrelay.stock.{queue}"
        self._delayed, self._dead = dq_name(queue), xq_name(queue)
        self._is_adopted = queue in client.topology.adopted

    def run(self, dry_run: bool) -> TakenOver | None:
        stocks = self._existing(self._staging, self._delayed, self._dead)
        if not stocks:
            return None
        replaces = (
            not self._is_adopted and bool(self._existing(self._queue)) and not self._is_ours()
        )
        counts = {name: self._count(name) for name in [*stocks, *([self._queue] * replaces)]}
        found = TakenOver(
            self._queue,
            counts.get(self._staging, 0) + counts.get(self._queue, 0),
            counts.get(self._delayed, 0),
            counts.get(self._dead, 0),
        )
        if dry_run:
            return found
        if replaces:
            self._declare_staging()
            self._move(self._queue, self._to_staging)
        for source, publication in (
            (self._staging, self._to_work_queue),
            (self._dead, self._to_dead_letters),
            # Last: this queue says that there is something to take over.
            (self._delayed, self._to_work_queue),
        ):
            if source in counts or (replaces and source == self._staging):
                self._move(source, publication)
        return found

    def _existing(self, *names: str) -> list[str]:
        with self._client.connection() as connection:
            return [
                name
                for name in names
                if connection.find(spec.Queue.Declare(queue=name, passive=True))
            ]

    def _count(self, name: str) -> int:
        """Count the messages of a queue.

        Raises:
            BrokerRefused: the queue has a consumer.
        """
        deadline = time.monotonic() + _LEAVE_TIMEOUT
        with self._client.connection() as connection:
            while (status := queue_status(connection, name)).consumer_count > 0:
                if time.monotonic() > deadline:
                    raise BrokerRefused(
                        f"expected no worker on the queue {name!r}, got a consumer: stop every "
                        "program that sends or runs its messages"
                    )
                time.sleep(0.05)
        return int(status.message_count)

    def _is_ours(self) -> bool:
        """Whether the work queue has formrelay's arguments."""
        declaration = next(
            part
            for part in self._client.topology.of_queue(self._queue)
            if isinstance(part, spec.Queue.Declare) and part.queue == self._queue
        )
        with self._client.connection() as connection:
            refusal = connection.try_calls([declaration])[1]
        if refusal is not None and refusal.code != PRECONDITION_FAILED:
            raise refusal
        return refusal is None

    def _declare_staging(self) -> None:
        with self._client.connection() as connection:
            connection.call(self._client.topology.staging_declaration(self._staging))

    # -- where a message goes ------------------------------------------------------------

    def _to_staging(self, content: codec.Content) -> Publication:
        return Publication(None, "", self._staging, content.head, content.body)

    def _to_work_queue(self, content: codec.Content) -> Publication:
        return Publication(self._queue, "", self._queue, content.head, content.body)

    def _to_dead_letters(self, content: codec.Content) -> Publication:
        """Keep the reason and time of the death, which RabbitMQ wrote into a header."""
        exchange = self._client.topology.dead_exchange(self._queue)
        id, attempt = _id_and_retries(content)
        failure = death_in(content.properties.headers or {}, attempt=attempt)
        head = content.head if id is None else self._client.head(id, None, failure)
        return Publication(self._queue, exchange, self._queue, head, content.body)

    # -- moving --------------------------------------------------------------------------

    def _move(self, source: str, publication: Callable[[codec.Content], Publication]) -> None:
        """Copy every message of a queue, then delete the queue."""
        with closing(self._client.connect()) as connection:
            connection.consume(source, "move", _CHUNK)
            while contents := _next(connection, source):
                self._client.publish([publication(content) for content in contents])
                connection.send(codec.acknowledge(contents[-1].delivery_tag, multiple=True))
            # RabbitMQ answers after it has processed the acknowledgements.
            connection.call(spec.Basic.Cancel(consumer_tag="move"))
            connection.fence()
        self._delete(source)

    def _delete(self, queue: str) -> None:
        try:
            with self._client.connection() as connection:
                connection.call(spec.Queue.Delete(queue=queue, if_unused=True, if_empty=True))
        except ChannelClosed as error:
            if error.code != PRECONDITION_FAILED:
                raise
            raise BrokerRefused(
                f"expected the queue {queue!r} to stay empty, got: {error.text}; stop every "
                "program that sends or runs its messages, and run this again"
            ) from None
        except BrokerUnavailable as error:
            if "quorum" not in error.message:  # quorum queues know neither condition
                raise
            with self._client.connection() as connection:
                if not ready_count(connection, queue):
                    connection.call(spec.Queue.Delete(queue=queue))


def _next(connection: Connection, queue: str) -> list[codec.Content]:
    """Return the next messages of a queue that is consumed; none at its end."""
    deadline = time.monotonic() + connection.timeout
    while not connection.contents:
        connection.wait(deadline, at_most=0.05)
        if not connection.contents and not ready_count(connection, queue):
            connection.fence()  # messages on their way arrive before its answer
            break
    return [connection.contents.popleft() for _ in range(len(connection.contents))]


def _id_and_retries(content: codec.Content) -> tuple[str | None, int]:
    """Return the id and the number of failed attempts in a message; stock has no other place."""
    try:
        fields: dict[str, Any] = orjson.loads(content.body)
        id, retries = fields["message_id"], fields["options"].get(RETRIES, 0)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None, 0
    return (id if isinstance(id, str) else None), (retries if isinstance(retries, int) else 0)
