"""The dead letters of a queue: walked through once, looked at, taken out.

AMQP has no way to look: messages are consumed, and go back to where they were when
the connection that consumed them ends. Meanwhile nobody else sees them.

Not fetched one by one (``basic.get``): a quorum queue takes each fetch for a consumer of
its own, and puts back what many consumers had in no order.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import orjson
from dramatiq import Message
from pika import spec

from ...core.failure import Failure, Reason
from ..envelope import Undecodable, decode, quarantine, revive
from ..errors import BrokerRefused, BrokerUnavailable
from ..inspection import Entry, State, died_at, failure_in
from ..settlement import buried
from . import wire
from .link import Link
from .publisher import Outgoing

if TYPE_CHECKING:
    from .broker import RabbitBroker

#: The header that holds the record of the failure, where the body does not.
_FAILURE = "x-formrelay-failure"
#: How many are looked at in one go.
_CHUNK = 200
#: How many RabbitMQ may have sent that are neither taken out nor looked at yet.
_WINDOW = 5_000
#: How long it may take them to go back, in seconds.
_BACK_WITHIN = 0.2


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter in hand, with its delivery tag."""

    entry: Entry
    number: int


class Walk:
    """Through the dead letters of one queue, the oldest first, as many as there are now.

    A context manager: what was not taken out goes back at its end.
    """

    def __init__(self, broker: RabbitBroker, queue: str) -> None:
        self._broker = broker
        self._queue = queue
        self._name = broker.topology.dead_queue(queue)
        self._link = broker.connect()
        self._consumers = 0
        #: How many there were, but for those that were taken out.
        self._there = 0
        #: How many more RabbitMQ may send.
        self._room = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokerUnavailable, BrokerRefused):
            if self._consumers:
                # A quorum queue hears of acknowledgements by and by, and of none that a connection
                # still has to pass on when it ends. It answers this when it has heard of all.
                self._link.call(spec.Basic.Cancel(consumer_tag=f"look-{self._consumers}"))
                self._link.fence()
        self._link.close()
        with suppress(BrokerUnavailable, BrokerRefused):
            self._wait_for(self._there)

    def _wait_for(self, count: int) -> None:
        """Until there are as many again, or somebody else may have them.

        A queue hears late that a connection has ended: whoever looks next would find none.
        """
        deadline = time.monotonic() + _BACK_WITHIN
        with self._broker.control() as link:
            while self._count(link) < count and time.monotonic() < deadline:
                time.sleep(0.005)

    def chunks(self, limit: int | None = None) -> Iterator[list[Letter]]:
        """The next letters, some at a time, at most ``limit`` in all."""
        self._broker.declared.ensure(self._link, [self._queue])
        # What dies while we are at it is not ours: it may be what we have just put back.
        self._there = self._count(self._link)
        left = self._there if limit is None else min(limit, self._there)
        while left > 0:
            found = self._next(left)
            if not found:
                return
            yield [self._letter(content) for content in found]
            left -= len(found)

    def _next(self, left: int) -> list[wire.Content]:
        """Some of the ``left`` next ones; none where another has them all."""
        link = self._link
        deadline = time.monotonic() + link.timeout
        while not link.contents:
            if self._room <= 0:
                self._consume(min(left, _WINDOW))
            link.wait(deadline, at_most=0.05)
            if not link.contents and not self._count(link):
                link.fence()  # what is under way comes before its answer
                break
        found = [link.contents.popleft() for _ in range(min(left, _CHUNK, len(link.contents)))]
        self._room -= len(found)
        return found

    def _consume(self, room: int) -> None:
        """One more consumer: what those before it have still counts as theirs."""
        self._consumers += 1
        self._room = room
        self._link.calls(
            [
                spec.Basic.Qos(prefetch_count=room),
                spec.Basic.Consume(queue=self._name, consumer_tag=f"look-{self._consumers}"),
            ]
        )

    def _count(self, link: Link) -> int:
        """How many letters nobody holds."""
        declared = link.call(spec.Queue.Declare(queue=self._name, passive=True))
        return int(declared.message_count)

    def replay(self, letters: Iterable[Letter]) -> None:
        """Put letters back on the work queue, attempts at zero, and take them out here.

        A crash in between leaves them in both places.
        """
        letters = list(letters)
        broker, queue = self._broker, self._queue
        bodies = [(letter.entry.id, revive(letter.entry.message)) for letter in letters]
        broker.publish(
            [Outgoing(queue, "", queue, broker.head(id, body), body) for id, body in bodies]
        )
        self.delete(letters)

    def delete(self, letters: Iterable[Letter]) -> None:
        """Take letters out for good."""
        letters = list(letters)
        self._there -= len(letters)
        self._link.send(b"".join(wire.acknowledge(letter.number) for letter in letters))

    def _letter(self, content: wire.Content) -> Letter:
        id = content.message_id
        message = self._message(content, id)
        cause = failure_in(message)
        id, queue = id or message.message_id, self._queue
        entry = Entry(queue, id, State.DEAD, message, failure=cause, died=died_at(cause))
        return Letter(entry, content.number)

    def _message(self, content: wire.Content, id: str | None) -> Message[Any]:
        """The message of a letter; one in quarantine, if its body is none."""
        broker, queue = self._broker, self._queue
        failure = _recorded_in(content)
        if failure is None or failure.reason is not Reason.UNDECODABLE:
            try:
                message = decode(content.body, queue_name=queue, job_types=broker.job_types)
            except Undecodable as error:
                if failure is None:  # buried by RabbitMQ itself, or by another program
                    now = broker.clock.time()
                    failure = Failure.of(error, reason=Reason.UNDECODABLE, attempt=0, now=now)
            else:
                return message if failure is None else buried(message, failure)
        return quarantine(
            content.body, queue_name=queue, message_id=id or "unknown", failure=failure
        )


def recorded(failure: Failure) -> dict[str, Any]:
    """Headers that say why a body that is kept as it came is dead."""
    return {_FAILURE: orjson.dumps(failure.to_json()).decode()}


def _recorded_in(content: wire.Content) -> Failure | None:
    """What :func:`recorded` says of a dead letter."""
    if not content.has_headers:
        return None
    try:
        return Failure.from_json(orjson.loads((content.properties.headers or {})[_FAILURE]))
    except (KeyError, TypeError, ValueError):
        return None
