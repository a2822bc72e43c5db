"""Reads the dead letters of a queue, and gives them back.

AMQP cannot browse a queue. The dead letters are consumed, and RabbitMQ requeues them when the
consuming connection closes: a classic queue at their old positions, a quorum queue in their order,
behind those requeued before and in front of those never delivered. No other client sees them
meanwhile. So:

- Listing reads for less than half a second, and decodes the dead letters after RabbitMQ has them
  back. The dead letters behind those are not read: to reach them again, RabbitMQ would have to
  deliver all dead letters before them once more.
- Only one process at a time reads the dead letters of a queue. The lock is an exclusive queue,
  which RabbitMQ deletes with its connection, also when the process is killed.

The dead letters are not fetched one by one with ``basic.get``: a quorum queue treats each fetch as
a new consumer, and requeues the messages of many consumers in no particular order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

from pika import spec

from ..entries import Entry
from ..errors import BrokerRefused, BrokerUnavailable
from . import codec
from .client import RabbitClient
from .connection import Connection
from .deaths import decoded
from .errors import ACCESS_REFUSED, RESOURCE_LOCKED

#: Seconds after which the dead letters that are held are given back.
HOLD_SECONDS = 0.4
#: Maximum number of dead letters per chunk.
CHUNK = 250
#: Maximum number of dead letters that RabbitMQ sends ahead of their acknowledgement.
_PREFETCH = 20_000
#: Maximum bytes of dead letters that listing keeps.
_MAX_BUFFERED_BYTES = 64 * 1024 * 1024
#: Seconds to wait until RabbitMQ has the dead letters back, and until another process is done.
_RETURN_TIMEOUT, _LOCK_TIMEOUT = 1.0, 30.0
#: Seconds. A count of 0 that took longer may be a timeout inside RabbitMQ, not the real count.
_SLOW_ANSWER = 0.2


@dataclass(frozen=True, slots=True)
class Reading:
    """The dead letters that were read, the oldest first.

    Attributes:
        entries: the dead letters that match.
        looked_at: number of dead letters that were read.
        is_complete: whether these were all dead letters of the queue.
    """

    entries: list[Entry]
    looked_at: int
    is_complete: bool


def read_dead_letters(
    client: RabbitClient,
    queue: str,
    job_types: Mapping[str, str],
    *,
    limit: float = math.inf,
    matches: Callable[[Entry], bool] = lambda _: True,
    until: Callable[[codec.Content], bool] = lambda _: False,
) -> Reading:
    """Read the oldest dead letters for at most :data:`HOLD_SECONDS`.

    Args:
        limit: maximum number to read.
        until: whether a dead letter is the last that has to be read.

    Raises:
        as :class:`DeadLetterReader`.
    """
    contents: list[codec.Content] = []
    size = 0
    with DeadLetterReader(client, queue) as reader:
        for chunk in reader.fetch(limit):
            contents += chunk
            size += sum(len(content.body) for content in chunk)
            if reader.is_overdue or size > _MAX_BUFFERED_BYTES or any(map(until, chunk)):
                break
    now = client.clock.time()
    letters = (decoded(content, queue, job_types, now=now) for content in contents)
    return Reading(
        [letter for letter in letters if matches(letter)],
        len(contents),
        is_complete=len(contents) >= reader.total,
    )


class DeadLetterReader:
    """Reads the dead letters of one queue, oldest first.

    A context manager that waits until no other process reads the dead letters. At its end RabbitMQ
    requeues the dead letters that were not removed.

    Args:
        prefetch: maximum number of dead letters that RabbitMQ sends ahead.

    Attributes:
        total: number of dead letters at the start of :meth:`fetch`.

    Raises:
        BrokerUnavailable: another process reads the dead letters for longer than 30 s.
        BrokerRefused
    """

    def __init__(self, client: RabbitClient, queue: str, *, prefetch: int = _PREFETCH) -> None:
        self._client = client
        self._queue = queue
        self._name = client.topology.dead_queue(queue)
        self._prefetch = prefetch
        self._consumers = 0
        #: The delivery tag after which the current consumer was started.
        self._consumes_after = 0
        #: Number of dead letters that RabbitMQ may still send to the current consumer.
        self._prefetch_left = 0
        #: Number of dead letters at the start, less those removed.
        self._expected = 0
        self._has_removed = False
        self._held_since = math.inf
        self._ended = ExitStack()
        self.total = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._control = stack.enter_context(self._client.connection([self._queue]))
            stack.enter_context(_exclusive_access(self._control, self._queue))
            self._connection = self._client.connect()
            stack.callback(self._return_letters)
            self._ended = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.__exit__(*error)

    def _return_letters(self) -> None:
        connection = self._connection
        with suppress(BrokerUnavailable, BrokerRefused):
            if self._has_removed:
                # RabbitMQ passes acknowledgements to a quorum queue with a delay, and drops them if
                # the connection closes before. It answers these calls afterwards.
                self._cancel()
                connection.fence()
        connection.close()
        # A queue notices with a delay that a connection is closed: the next reader would find none.
        deadline = time.monotonic() + _RETURN_TIMEOUT
        while (
            ready_count(self._control, self._name) < self._expected and time.monotonic() < deadline
        ):
            time.sleep(0.005)

    @property
    def is_overdue(self) -> bool:
        """Whether dead letters have been hidden from other clients for long enough."""
        return time.monotonic() - self._held_since > HOLD_SECONDS

    def fetch(self, limit: float = math.inf) -> Iterator[list[codec.Content]]:
        """Yield the dead letters in chunks, at most ``limit`` in total."""
        # Leave out messages dead-lettered after this count: a replayed job may fail again.
        self.total = self._expected = ready_count(self._control, self._name)
        left = int(min(limit, self.total))
        while left > 0:
            found = self._next(left)
            if not found:
                return
            self._held_since = min(self._held_since, time.monotonic())
            yield found
            left -= len(found)

    def _next(self, left: int) -> list[codec.Content]:
        """Return up to ``left`` dead letters; none if another program consumes them."""
        connection = self._connection
        deadline = time.monotonic() + connection.timeout
        while not connection.contents:
            if self._prefetch_left <= 0:
                self._consume(min(left, self._prefetch))
            connection.wait(deadline, at_most=0.05)
            if not connection.contents and not ready_count(self._control, self._name):
                connection.fence()  # messages on their way arrive before its answer
                break
        found = [
            connection.contents.popleft() for _ in range(min(left, CHUNK, len(connection.contents)))
        ]
        self._prefetch_left -= len(found)
        return found

    def _consume(self, prefetch: int) -> None:
        """Start another consumer: the prefetch of the earlier consumer is used up."""
        if self._consumers:
            # Two consumers would get several messages in turn.
            self._cancel()
        self._consumers += 1
        self._consumes_after = self._connection.delivered
        self._prefetch_left = prefetch
        self._connection.consume(self._name, f"look-{self._consumers}", prefetch)

    def _cancel(self) -> None:
        self._connection.call(spec.Basic.Cancel(consumer_tag=f"look-{self._consumers}"))

    def remove(self, letters: Iterable[codec.Content]) -> None:
        """Delete dead letters that :meth:`fetch` returned."""
        tags = [letter.delivery_tag for letter in letters]
        if not tags:
            return
        self._expected -= len(tags)
        self._has_removed = True
        self._connection.send(b"".join(map(codec.acknowledge, tags)))
        # RabbitMQ sends as many more to the consumer that received them.
        self._prefetch_left += sum(tag > self._consumes_after for tag in tags)

    def has_nothing_held(self) -> None:
        """Note that all dead letters received so far were removed."""
        self._held_since = math.inf


@contextmanager
def _exclusive_access(connection: Connection, queue: str) -> Iterator[None]:
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
