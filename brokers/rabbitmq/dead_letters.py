"""Lists, replays and deletes the dead letters of a queue.

AMQP cannot browse a queue. The dead letters are consumed, and RabbitMQ requeues them at their old
positions when the consuming connection closes. No other client sees them meanwhile. So:

- Only one process at a time reads the dead letters of a queue. The lock is an exclusive queue,
  which RabbitMQ deletes with its connection, also when the process is killed.
- Listing decodes the dead letters after RabbitMQ has them back.

The dead letters are not fetched one by one with ``basic.get``: a quorum queue treats each fetch as
a new consumer, and requeues the messages of many consumers in no particular order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import orjson
from pika import spec

from ...core.clock import iso
from ...core.failure import Failure, Reason
from ...middleware.delivery import RETRIES
from ..envelope import decode_or_wrap
from ..errors import BrokerRefused, BrokerUnavailable
from ..fields import died_at, failure_in, for_replay
from ..inspection import Entry, State
from ..settlement import as_dead_letter
from . import codec
from .client import FAILURE_HEADER, Publication, RabbitClient
from .connection import Connection
from .errors import ACCESS_REFUSED, RESOURCE_LOCKED
from .subscription import MAX_PREFETCH
from .topology import OWN_PREFIX

#: Number of dead letters per chunk.
_CHUNK = 200
#: Maximum bytes of dead letters that listing keeps before it decodes them.
_MAX_BUFFERED_BYTES = 32 * 1024 * 1024
#: Seconds to wait until RabbitMQ has the dead letters back, and until another process is done.
_RETURN_TIMEOUT, _LOCK_TIMEOUT = 1.0, 30.0
#: Seconds. A count of 0 that took longer may be a timeout inside RabbitMQ, not the real count.
_SLOW_ANSWER = 0.2


@dataclass(frozen=True, slots=True)
class DeadDelivery:
    """A dead letter that a :class:`DeadLetterReader` has fetched."""

    entry: Entry
    delivery_tag: int


def read_dead_letters(
    client: RabbitClient,
    queue: str,
    job_types: Mapping[str, str],
    *,
    limit: int | None = None,
    matches: Callable[[Entry], bool] = lambda _: True,
) -> list[Entry]:
    """Return the dead letters that match, oldest first; reads at most the first ``limit``.

    Raises:
        as :class:`DeadLetterReader`.
    """
    found: list[Entry] = []
    undecoded: list[codec.Content] = []
    size = 0
    with DeadLetterReader(client, queue, job_types) as reader:
        for contents in reader.fetch(limit):
            undecoded += contents
            size += sum(len(content.body) for content in contents)
            if size > _MAX_BUFFERED_BYTES:
                found += filter(matches, map(reader.entry, undecoded))
                undecoded, size = [], 0
    return [*found, *filter(matches, map(reader.entry, undecoded))]


class DeadLetterReader:
    """Reads, replays and deletes the dead letters of one queue, oldest first.

    A context manager that waits until no other process reads the dead letters. At its end RabbitMQ
    requeues the dead letters that were not deleted or replayed.

    Raises:
        BrokerUnavailable: another process reads the dead letters for longer than 30 s.
        BrokerRefused
    """

    def __init__(self, client: RabbitClient, queue: str, job_types: Mapping[str, str]) -> None:
        self._client = client
        self._job_types = job_types
        self._queue = queue
        self._name = client.topology.dead_queue(queue)
        self._consumers = 0
        #: Number of dead letters at the start, less those deleted or replayed.
        self._expected = 0
        #: Number of dead letters that RabbitMQ may still send to the current consumer.
        self._prefetch_left = 0
        self._has_deleted = False
        self._ended = ExitStack()

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
            if self._has_deleted:
                # RabbitMQ passes acknowledgements to a quorum queue with a delay, and drops them if
                # the connection closes before. It answers these calls afterwards.
                connection.call(spec.Basic.Cancel(consumer_tag=f"look-{self._consumers}"))
                connection.fence()
        connection.close()
        # A queue notices with a delay that a connection is closed: the next reader would find none.
        deadline = time.monotonic() + _RETURN_TIMEOUT
        while (
            ready_count(self._control, self._name) < self._expected and time.monotonic() < deadline
        ):
            time.sleep(0.005)

    def chunks(self) -> Iterator[list[DeadDelivery]]:
        """Yield the dead letters in chunks, decoded."""
        for contents in self.fetch():
            yield [DeadDelivery(self.entry(content), content.delivery_tag) for content in contents]

    def fetch(self, limit: int | None = None) -> Iterator[list[codec.Content]]:
        """Yield the dead letters in chunks, at most ``limit`` in total."""
        # Leave out messages dead-lettered after this count: a replayed job may fail again.
        self._expected = ready_count(self._control, self._name)
        left = self._expected if limit is None else min(limit, self._expected)
        while left > 0:
            found = self._next(left)
            if not found:
                return
            yield found
            left -= len(found)

    def _next(self, left: int) -> list[codec.Content]:
        """Return up to ``left`` dead letters; none if another program consumes them."""
        connection = self._connection
        deadline = time.monotonic() + connection.timeout
        while not connection.contents:
            if self._prefetch_left <= 0:
                # Another consumer: the prefetch of the earlier consumers is used up.
                self._consumers += 1
                self._prefetch_left = min(left, MAX_PREFETCH)
                connection.consume(self._name, f"look-{self._consumers}", self._prefetch_left)
            connection.wait(deadline, at_most=0.05)
            if not connection.contents and not ready_count(self._control, self._name):
                connection.fence()  # messages on their way arrive before its answer
                break
        found = [
            connection.contents.popleft()
            for _ in range(min(left, _CHUNK, len(connection.contents)))
        ]
        self._prefetch_left -= len(found)
        return found

    def replay(self, letters: Iterable[DeadDelivery]) -> None:
        """Put dead letters back on the work queue, with no attempts, and delete them here.

        A crash in between leaves the messages on both queues.
        """
        letters = list(letters)
        self._client.publish([self._replayed(letter.entry) for letter in letters])
        self.delete(letters)

    def _replayed(self, entry: Entry) -> Publication:
        body, priority = for_replay(entry.message)
        head = self._client.head(entry.id, priority)
        return Publication(self._queue, "", self._queue, head, body)

    def delete(self, letters: Iterable[DeadDelivery]) -> None:
        """Delete dead letters."""
        letters = list(letters)
        self._expected -= len(letters)
        self._has_deleted = True
        self._connection.send(
            b"".join(codec.acknowledge(letter.delivery_tag) for letter in letters)
        )

    def entry(self, content: codec.Content) -> Entry:
        """Decode a dead letter."""
        id, headers = content.message_id, content.properties.headers or {}
        failure = _recorded_failure(headers)
        message = decode_or_wrap(
            content.body,
            queue_name=self._queue,
            job_types=self._job_types,
            message_id=id,
            now=self._client.clock.time(),
            failure=failure,
        )
        if failure is not None:
            message = as_dead_letter(message, failure)
        retries = message.options.get(RETRIES)
        attempt = retries if isinstance(retries, int) else 0
        # RabbitMQ's header first: the message may also carry the failure of an earlier attempt.
        cause = death_in(headers, attempt=attempt) or failure_in(message)
        id = id or message.message_id
        return Entry(self._queue, id, State.DEAD, message, failure=cause, died=died_at(cause))


def _recorded_failure(headers: Mapping[str, Any]) -> Failure | None:
    """Return the failure in :data:`.client.FAILURE_HEADER`, if there is one."""
    try:
        return Failure.from_json(orjson.loads(headers[FAILURE_HEADER]))
    except (KeyError, TypeError, ValueError):
        return None


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


#: Our reason and text for each of RabbitMQ's reasons.
_REASONS = {
    "delivery_limit": (Reason.DELIVERY_LIMIT, "requeued more often than the delivery limit allows"),
    "expired": (Reason.EXPIRED, "waited longer than its time-to-live"),
    "maxlen": (Reason.MAXLEN, "the queue was longer than its maximum length"),
    "rejected": (Reason.REJECTED, "rejected by a consumer"),
}


def death_in(headers: Mapping[str, Any], *, attempt: int) -> Failure | None:
    """Return why RabbitMQ dead-lettered a message; None if formrelay did.

    Messages that formrelay dead-letters are published again and have no ``x-death`` header.

    Args:
        attempt: number of attempts before.
    """
    for death in _deaths(headers):
        queue, count, at = death.get("queue"), death.get("count"), death.get("time")
        if isinstance(queue, str) and queue.startswith(OWN_PREFIX):
            # A delay queue: the message was due, and no work queue took it.
            reason, text = Reason.UNDELIVERABLE, "its queue did not exist when it was due"
            queue = None
        elif death.get("reason") in _REASONS:
            reason, text = _REASONS[death["reason"]]
        else:
            continue
        where = f" from {queue!r}" if queue else ""
        times = f" (count: {count})" if queue and isinstance(count, int) else ""
        return Failure(
            reason=reason,
            error="RabbitMQ",
            message=f"dead-lettered by RabbitMQ{where}: {text}{times}",
            at=_iso(at),
            attempt=attempt,
            worker="rabbitmq",
        )
    return None


def _deaths(headers: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the deaths, newest first; deaths in formrelay's own queues come last."""
    found = headers.get("x-death")
    deaths = found if isinstance(found, list) else []
    deaths = [death for death in deaths if isinstance(death, Mapping)]
    yield from sorted(deaths, key=lambda death: str(death.get("queue", "")).startswith(OWN_PREFIX))


def _iso(at: object) -> str:
    if not isinstance(at, datetime):
        return ""
    return iso((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
