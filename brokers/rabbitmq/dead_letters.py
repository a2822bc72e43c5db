"""The dead letters of a queue: walked through once, looked at, taken out.

AMQP has no way to look: messages are consumed, and go back to where they were when the connection
that consumed them ends. Nobody else sees them meanwhile. So:

- Walks of all processes wait for one another, by an exclusive queue that a walk declares and that
  RabbitMQ deletes with its connection, also when the process is killed.
- A look only fetches, and reads what it has fetched after the letters have gone back.

Letters are not fetched one by one (``basic.get``): a quorum queue takes each fetch for a consumer
of its own, and puts back what many consumers had in no order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import orjson
from dramatiq import Message
from pika import spec

from ...core.clock import iso
from ...core.failure import Failure, Reason
from ...middleware.delivery import RETRIES
from ..envelope import decode_or_quarantine, encode_for_replay
from ..errors import BrokerRefused, BrokerUnavailable
from ..inspection import Entry, State, died_at, failure_in
from ..settlement import as_dead_letter
from . import codec
from .client import FAILURE_HEADER, RabbitClient
from .connection import Connection
from .publisher import Publication

#: Number of letters that are handled at a time.
_CHUNK = 200
#: Number of letters that RabbitMQ may send to one consumer: what AMQP can say.
_WINDOW = 65_535
#: Bytes of letters that a look keeps unread.
_MOST_UNREAD = 32 * 1024 * 1024
#: Seconds that letters may take to go back, and to wait for another process.
_BACK_WITHIN, _PATIENCE = 1.0, 30.0
#: Seconds. A count of 0 that took longer may be a time-out of the quorum queue, not the number.
_SLOW = 0.2
_ACCESS_REFUSED, _RESOURCE_LOCKED = 403, 405


@dataclass(frozen=True, slots=True)
class DeadDelivery:
    """A dead letter in flight, with its delivery tag."""

    entry: Entry
    number: int


def look(
    client: RabbitClient,
    queue: str,
    job_types: Mapping[str, str],
    *,
    limit: int | None = None,
    is_meant: Callable[[Entry], bool] = lambda _: True,
) -> list[Entry]:
    """The dead letters that are meant, the oldest first; at most the first ``limit`` are looked at.

    Raises:
        as :class:`Walk`.
    """
    found: list[Entry] = []
    unread: list[codec.Content] = []
    size = 0
    with Walk(client, queue, job_types) as walk:
        for contents in walk.fetched(limit):
            unread += contents
            size += sum(len(content.body) for content in contents)
            if size > _MOST_UNREAD:
                found += filter(is_meant, map(walk.entry, unread))
                unread, size = [], 0
    return [*found, *filter(is_meant, map(walk.entry, unread))]


class Walk:
    """Through the dead letters of one queue, the oldest first, as many as there are now.

    A context manager: letters that were not taken out go back when it ends. It waits for the walks
    of other processes.

    Raises:
        BrokerUnavailable: another process walks for longer than 30 s.
        BrokerRefused
    """

    def __init__(self, client: RabbitClient, queue: str, job_types: Mapping[str, str]) -> None:
        self._client = client
        self._job_types = job_types
        self._queue = queue
        self._name = client.topology.dead_queue(queue)
        self._consumers = 0
        #: Number of letters at the start, without the letters that were taken out.
        self._there = 0
        #: Number of letters that RabbitMQ may still send.
        self._room = 0
        self._has_taken = False
        self._ended = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._control = stack.enter_context(self._client.control())
            self._client.declared.ensure(self._control, [self._queue])
            stack.enter_context(_alone(self._control, self._queue))
            self._connection = self._client.connect()
            stack.callback(self._put_back)
            self._ended = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.__exit__(*error)

    def _put_back(self) -> None:
        connection = self._connection
        with suppress(BrokerUnavailable, BrokerRefused):
            if self._has_taken:
                # A quorum queue hears of acknowledgements by and by, and of none that a connection
                # still has to pass on when it ends. It answers this when it has heard of all.
                connection.call(spec.Basic.Cancel(consumer_tag=f"look-{self._consumers}"))
                connection.fence()
        connection.close()
        # A queue hears late that a connection has ended: whoever looks next would find none.
        deadline = time.monotonic() + _BACK_WITHIN
        while ready(self._control, self._name) < self._there and time.monotonic() < deadline:
            time.sleep(0.005)

    def chunks(self) -> Iterator[list[DeadDelivery]]:
        """The letters, some at a time."""
        for contents in self.fetched():
            yield [DeadDelivery(self.entry(content), content.number) for content in contents]

    def fetched(self, limit: int | None = None) -> Iterator[list[codec.Content]]:
        """The letters as they come, some at a time, at most ``limit`` in all."""
        # What dies while we are at it is not ours: it may be what we have just put back.
        self._there = ready(self._control, self._name)
        left = self._there if limit is None else min(limit, self._there)
        while left > 0:
            found = self._next(left)
            if not found:
                return
            yield found
            left -= len(found)

    def _next(self, left: int) -> list[codec.Content]:
        """Some of the ``left`` next ones; none where another program has them all."""
        connection = self._connection
        deadline = time.monotonic() + connection.timeout
        while not connection.contents:
            if self._room <= 0:
                self._consume(min(left, _WINDOW))
            connection.wait(deadline, at_most=0.05)
            if not connection.contents and not ready(self._control, self._name):
                connection.fence()  # what is under way comes before its answer
                break
        found = [
            connection.contents.popleft()
            for _ in range(min(left, _CHUNK, len(connection.contents)))
        ]
        self._room -= len(found)
        return found

    def _consume(self, room: int) -> None:
        """Start one more consumer: unsettled letters count against the prefetch of earlier ones."""
        self._consumers += 1
        self._room = room
        self._connection.calls(
            [
                spec.Basic.Qos(prefetch_count=room),
                spec.Basic.Consume(queue=self._name, consumer_tag=f"look-{self._consumers}"),
            ]
        )

    def replay(self, letters: Iterable[DeadDelivery]) -> None:
        """Put letters back on the work queue, attempts at zero, and take them out here.

        A crash in between leaves them in both places.
        """
        letters = list(letters)
        client, queue = self._client, self._queue
        bodies = [(letter.entry.id, encode_for_replay(letter.entry.message)) for letter in letters]
        client.publish(
            [Publication(queue, "", queue, client.head(id, body), body) for id, body in bodies]
        )
        self.delete(letters)

    def delete(self, letters: Iterable[DeadDelivery]) -> None:
        """Take letters out for good."""
        letters = list(letters)
        self._there -= len(letters)
        self._has_taken = True
        self._connection.send(b"".join(codec.acknowledge(letter.number) for letter in letters))

    def entry(self, content: codec.Content) -> Entry:
        """The entry of a letter."""
        properties = content.properties
        id, headers = content.message_id, properties.headers or {}
        message = self._message(content, id, headers)
        retries = message.options.get(RETRIES)
        attempt = retries if isinstance(retries, int) else 0
        # A failure of ours may stand there as well: of the attempt before.
        cause = death_in(headers, attempt=attempt) or failure_in(message)
        id = id or message.message_id
        return Entry(self._queue, id, State.DEAD, message, failure=cause, died=died_at(cause))

    def _message(
        self, content: codec.Content, id: str | None, headers: Mapping[str, Any]
    ) -> Message[Any]:
        """The message of a letter, with the record of its failure."""
        failure = _recorded_in(headers)
        message = decode_or_quarantine(
            content.body,
            queue_name=self._queue,
            job_types=self._job_types,
            message_id=id,
            now=self._client.clock.time(),
            failure=failure,
        )
        return message if failure is None else as_dead_letter(message, failure)


def _recorded_in(headers: Mapping[str, Any]) -> Failure | None:
    """The failure in :data:`.client.FAILURE_HEADER`."""
    try:
        return Failure.from_json(orjson.loads(headers[FAILURE_HEADER]))
    except (KeyError, TypeError, ValueError):
        return None


@contextmanager
def _alone(connection: Connection, queue: str) -> Iterator[None]:
    """Hold the one right to walk through the dead letters of a queue.

    Whoever waits for it holds the right to be the next, so that nobody who walks again and again
    comes before.
    """
    name, turn = f"formrelay.look.{queue}", f"formrelay.look.next.{queue}"
    deadline = time.monotonic() + _PATIENCE
    _claim(connection, turn, queue, deadline)
    try:
        _claim(connection, name, queue, deadline)
    finally:
        _release(connection, turn)
    try:
        yield
    finally:
        _release(connection, name)


def _claim(connection: Connection, name: str, queue: str, deadline: float) -> None:
    claim = spec.Queue.Declare(queue=name, exclusive=True, arguments={"x-queue-type": "classic"})
    pause = 0.01
    while (refusal := connection.try_calls([claim])[1]) is not None:
        if refusal.code == _ACCESS_REFUSED:
            raise BrokerRefused(
                f"expected the right to configure {name!r}, by which looks at dead letters wait "
                f"for one another, got: {refusal.text}; give the user that right (see "
                "docs/brokers.md)"
            )
        if refusal.code != _RESOURCE_LOCKED:
            raise refusal
        if time.monotonic() > deadline:
            raise BrokerUnavailable(
                f"expected to get at the dead letters of {queue!r} within {_PATIENCE:g} s, another "
                "process looks at, replays or deletes them; try again"
            )
        time.sleep(pause)
        pause = min(2 * pause, 0.1)  # each try is a line in RabbitMQ's log


def _release(connection: Connection, name: str) -> None:
    with suppress(BrokerUnavailable, BrokerRefused):
        connection.call(spec.Queue.Delete(queue=name))


def ready(connection: Connection, name: str) -> int:
    """The number of messages in a queue that nobody has taken."""
    return int(counted(connection, name).message_count)


def counted(connection: Connection, name: str) -> Any:
    """What a queue says of itself (``message_count``, ``consumer_count``)."""
    passive = spec.Queue.Declare(queue=name, passive=True)
    for _ in range(3):
        asked_at = time.monotonic()
        found = connection.call(passive)
        # A quorum queue that does not answer within 0.25 s is said to have none.
        if found.message_count or time.monotonic() - asked_at < _SLOW:
            break
    return found


#: RabbitMQ's reasons, and what each means.
_REASONS = {
    "delivery_limit": (Reason.DELIVERY_LIMIT, "put back more often than the delivery limit allows"),
    "expired": (Reason.EXPIRED, "waited longer than its time-to-live"),
    "maxlen": (Reason.MAXLEN, "the queue was longer than its maximum length"),
    "rejected": (Reason.REJECTED, "rejected by a consumer"),
}
#: Our own queues, by which a message passes on its way to a work queue.
_OWN = "formrelay."


def death_in(headers: Mapping[str, Any], *, attempt: int) -> Failure | None:
    """The last death in a dead letter's headers; None where RabbitMQ did not dead-letter it.

    Messages that formrelay dead-letters are published anew and have no such header.

    Args:
        attempt: the attempts that were made before.
    """
    for death in _deaths(headers):
        queue, count, time = death.get("queue"), death.get("count"), death.get("time")
        if isinstance(queue, str) and queue.startswith(_OWN):
            # It was due, and no work queue took it.
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
            at=_iso(time),
            attempt=attempt,
            worker="rabbitmq",
        )
    return None


def _deaths(headers: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The deaths, the last one first; those on other queues than ours before those on ours."""
    found = headers.get("x-death")
    deaths = [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []
    yield from sorted(deaths, key=lambda one: str(one.get("queue", "")).startswith(_OWN))


def _iso(time: object) -> str:
    if not isinstance(time, datetime):
        return ""
    return iso((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())
