"""Reads the dead letters of a queue, and gives them back in their order.

AMQP cannot browse a queue. The dead letters are consumed, and RabbitMQ requeues them when the
consuming connection closes. No other client sees them meanwhile. So:

- Listing reads for less than half a second, and decodes the dead letters after RabbitMQ has them
  back. The dead letters behind those are not read: to reach them again, RabbitMQ would have to
  deliver all dead letters before them once more.
- Only one process at a time reads the dead letters of a queue (:mod:`.dead_lock`).
- RabbitMQ sends some thousand letters ahead, not more: it prepares them all before it sends the
  first, and they are hidden from then on.

A classic queue requeues at the old positions. A quorum queue requeues behind the letters requeued
before, and in front of those never delivered. So a reader that holds letters requeued before reads
on to the first that was never delivered: then all that were requeued before are in its hands, and
go back in their order.

The dead letters are not fetched one by one with ``basic.get``: a quorum queue treats each fetch as
a new consumer, and requeues the messages of many consumers in no particular order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from pika import spec

from ..entries import Entry
from ..errors import BrokerRefused, BrokerUnavailable
from . import codec
from .client import RabbitClient
from .dead_lock import exclusive_access, lock_name, marker
from .deaths import decoded
from .queue_status import ready_count

#: Seconds after which the dead letters that a listing holds are given back.
HOLD_SECONDS = 0.4
#: Seconds after which they are given back although the order of a quorum queue changes then.
_REORDER_SECONDS = 0.9
#: Maximum number of dead letters per chunk.
CHUNK = 250
#: Maximum number of dead letters that RabbitMQ sends ahead.
_PREFETCH = 5_000
#: Maximum bytes of dead letters that listing keeps.
_MAX_BUFFERED_BYTES = 64 * 1024 * 1024
#: Seconds to wait until RabbitMQ has the dead letters back.
_RETURN_TIMEOUT = 1.0


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
            is_overdue = reader.held_for > HOLD_SECONDS
            if is_overdue or size > _MAX_BUFFERED_BYTES or any(map(until, chunk)):
                break
        was_killed = reader.control.find(marker(queue, passive=True)) is not None
    now = client.clock.time()
    decode = partial(decoded, queue=queue, job_types=job_types, now=now)
    letters = _each_once(contents, decode) if was_killed else map(decode, contents)
    return Reading(
        [letter for letter in letters if matches(letter)],
        len(contents),
        is_complete=len(contents) >= reader.total,
    )


def _each_once(
    contents: Iterable[codec.Content], decode: Callable[[codec.Content], Entry]
) -> Iterator[Entry]:
    """Decode, and leave out letters that a killed process left twice (see :mod:`.dead_moves`)."""
    met: dict[str, Entry] = {}
    for content in contents:
        letter = decode(content)
        first = met.setdefault(letter.id, letter) if content.message_id else letter
        if first is letter or (first.raw, first.failure) != (letter.raw, letter.failure):
            yield letter


class DeadLetterReader:
    """Reads the dead letters of one queue, oldest first; or its waiting messages.

    A context manager that waits until no other process reads the dead letters. At its end RabbitMQ
    requeues the dead letters that were not removed or moved.

    Args:
        prefetch: maximum number of dead letters that RabbitMQ sends ahead.
        waiting: whether to read the waiting messages instead, beside the workers.

    Attributes:
        total: number of dead letters at the start of :meth:`fetch`.
        control: the connection that holds the lock.

    Raises:
        BrokerUnavailable: another process reads the dead letters for longer than 30 s.
        BrokerRefused
    """

    def __init__(
        self,
        client: RabbitClient,
        queue: str,
        *,
        prefetch: int = _PREFETCH,
        waiting: bool = False,
    ) -> None:
        self._client = client
        self._queue = queue
        self._name = queue if waiting else client.topology.dead_queue(queue)
        self._lock = lock_name(queue, waiting=waiting)
        self._prefetch = prefetch
        self._consumers = 0
        self._is_consuming = False
        #: The delivery tag after which the current consumer was started.
        self._consumes_after = 0
        #: Number of dead letters that RabbitMQ may still send to the current consumer.
        self._prefetch_left = 0
        #: Number of dead letters at the start, less those removed.
        self._expected = 0
        #: Number of dead letters that were returned by :meth:`fetch` and not settled.
        self._held = 0
        self._held_since = math.inf
        #: Whether the last dead letter that was read had been requeued before.
        self._is_amid_requeued = False
        self._has_settled = False
        self._has_transactions = False
        self._is_stopped = False
        self._ended = ExitStack()
        self.total = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.control = stack.enter_context(self._client.connection([self._queue]))
            stack.enter_context(exclusive_access(self.control, self._lock))
            self._connection = self._client.connect()
            stack.callback(self._return_letters)
            self._ended = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.__exit__(*error)

    def _return_letters(self) -> None:
        connection = self._connection
        with suppress(BrokerUnavailable, BrokerRefused):
            self._take_all_requeued()
            if self._has_settled:
                # RabbitMQ passes acknowledgements to a quorum queue with a delay, and drops them if
                # the connection closes before. It answers these calls afterwards.
                self._cancel()
                connection.fence()
        connection.close()
        # A queue notices with a delay that a connection is closed: the next reader would find none.
        deadline = time.monotonic() + _RETURN_TIMEOUT
        while (
            ready_count(self.control, self._name) < self._expected and time.monotonic() < deadline
        ):
            time.sleep(0.005)

    def _take_all_requeued(self) -> None:
        """Read on, so that a quorum queue gets all requeued letters back in their order."""
        if self._client.topology.is_classic(self._name):
            return
        self._is_stopped, self._prefetch = False, _PREFETCH
        sent = self._connection.contents
        while 0 < self._held + len(sent) < self._expected and self.held_for < _REORDER_SECONDS:
            if not (sent[-1].redelivered if sent else self._is_amid_requeued):
                return
            self._held += len(sent)
            self._prefetch_left -= len(sent)
            sent.clear()
            if not self._next(_PREFETCH):
                return

    @property
    def held_for(self) -> float:
        """Seconds for which dead letters have been hidden from other clients."""
        return max(0.0, time.monotonic() - self._held_since)

    # -- reading -----------------------------------------------------------------------

    def fetch(self, limit: float = math.inf) -> Iterator[list[codec.Content]]:
        """Yield the dead letters in chunks, at most ``limit`` in total."""
        # Leave out messages dead-lettered after this count: a replayed job may fail again.
        self.total = self._expected = ready_count(self.control, self._name)
        left = int(min(limit, self.total))
        while left > 0:
            found = self._next(left)
            if not found:
                return
            left -= len(found)
            if left < self._prefetch:
                self._cancel()  # for each letter removed, RabbitMQ would send one too many
            yield found

    def stop(self) -> None:
        """Let :meth:`fetch` end with the dead letters that RabbitMQ has sent already."""
        self._is_stopped = True
        self._cancel()

    def _next(self, left: int) -> list[codec.Content]:
        """Return up to ``left`` dead letters; none if another program consumes them."""
        connection = self._connection
        deadline = time.monotonic() + connection.timeout
        while not connection.contents and not self._is_stopped:
            if self._prefetch_left <= 0:
                self._consume(min(left, self._prefetch))
            connection.wait(deadline, at_most=0.05)
            if not connection.contents and self._is_empty():
                break
        found = [
            connection.contents.popleft() for _ in range(min(left, CHUNK, len(connection.contents)))
        ]
        if found:
            self._prefetch_left -= len(found)
            self._held += len(found)
            self._held_since = min(self._held_since, time.monotonic())
            self._is_amid_requeued = found[-1].redelivered
        return found

    def _consume(self, prefetch: int) -> None:
        """Start another consumer: the prefetch of the earlier consumer is used up."""
        self._cancel()  # two consumers would get several messages in turn
        self._consumers += 1
        self._consumes_after = self._connection.delivered
        self._prefetch_left = prefetch
        self._connection.consume(self._name, self._tag, prefetch)
        self._is_consuming = True
        self._held_since = min(self._held_since, time.monotonic())

    def _cancel(self) -> None:
        """End the consumer, after all dead letters that RabbitMQ sends to it have arrived."""
        if not self._is_consuming:
            return
        # RabbitMQ drops what it has not sent to a cancelled consumer, and gives it to no other.
        connection = self._connection
        deadline = time.monotonic() + connection.timeout
        while (count := len(connection.contents)) < self._prefetch_left:
            connection.wait(deadline, at_most=0.05)
            if len(connection.contents) == count and self._is_empty():
                break
        connection.call(spec.Basic.Cancel(consumer_tag=self._tag))
        self._is_consuming = False
        self._prefetch_left = len(connection.contents)

    def _is_empty(self) -> bool:
        """Whether RabbitMQ has no more dead letters to send."""
        if ready_count(self.control, self._name):
            return False
        self._connection.fence()  # messages on their way arrive before its answer
        return True

    @property
    def _tag(self) -> str:
        # A quorum queue requeues the letters of several consumers in the order of their tags.
        return f"look-{self._consumers:04}"

    # -- settling ----------------------------------------------------------------------

    def remove(self, letters: Iterable[codec.Content], *, are_moved: bool = False) -> None:
        """Delete dead letters that :meth:`fetch` returned.

        Args:
            are_moved: whether they were published again.
        """
        tags = [letter.delivery_tag for letter in letters]
        if not tags:
            return
        if not are_moved:
            self._expected -= len(tags)
        # In a transaction they are one command to a quorum queue. RabbitMQ holds back commands
        # beyond 32 (``quorum_commands_soft_limit``), and drops them if the connection closes.
        if not self._has_transactions:
            self._connection.call(spec.Tx.Select())
            self._has_transactions = True
        self._connection.send(b"".join(map(codec.acknowledge, tags)))
        self._connection.call(spec.Tx.Commit())
        self._note_settled(tags)

    def _note_settled(self, tags: Sequence[int]) -> None:
        self._has_settled = True
        self._held -= len(tags)
        if self._is_consuming:
            # RabbitMQ sends as many more to the consumer that received them.
            self._prefetch_left += sum(tag > self._consumes_after for tag in tags)
        if not self._held:
            self._held_since = math.inf
