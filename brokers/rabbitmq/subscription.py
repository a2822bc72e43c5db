"""One connection that consumes one queue, with what is particular to it.

How far to fetch ahead: a consumer's prefetch cannot be changed, and quorum
queues know no prefetch of the channel. So where jobs turn out to be short the
consumer is cancelled and another one, with a larger prefetch, takes its place;
and back again when they do not. Never two at a time: a quorum queue deals out
to each of its consumers by the handful, and the order would be lost.

Each consumer has a name of its own: where RabbitMQ 3.10 sees one again while
messages of the one before are in flight, it ends the connection.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pika import spec

from . import codec
from .connection import Connection

WORK_TAG, QUARANTINE_TAG = "work", "trial"
#: Messages a second, and what is added to the prefetch from there on: 30 to 100 ms of work.
_AHEAD = ((0, 0), (1_000, 64), (4_000, 400))
#: The largest prefetch that AMQP can say.
MOST_PREFETCH = 65_535
#: Seconds for a consumer that is to be replaced to get all that it may have, so that no message is
#: under way to it and overtaken; and the interval after which that is tried again.
_FILLS, _RESTS = 0.02, 1.0
#: Acknowledgements that are not in a row wait for those between them, up to so many.
_MOST_WAITING = 64


@dataclass(slots=True)
class Acks:
    """Acknowledgements on their way, gathered so that one says many.

    Attributes:
        lowest: every delivery up to this one is acknowledged.
    """

    lowest: int = 0
    _waiting: set[int] = field(default_factory=set)
    _sent: set[int] = field(default_factory=set)

    def add(self, number: int) -> None:
        self._waiting.add(number)

    def sent_after(self, number: int) -> int:
        """How many deliveries after this one RabbitMQ was told of."""
        start = max(number, self.lowest)
        return start - number + sum(one > start for one in self._sent)

    def frames(self, *, all: bool) -> bytes:
        """What to send now.

        Args:
            all: also those that wait for others between them.
        """
        waiting, sent = self._waiting, self._sent
        if not waiting:
            return b""
        lowest, last = self.lowest, 0
        while True:
            following = lowest + 1
            if following in waiting:
                waiting.remove(following)
                last = following  # RabbitMQ wants one that it has not seen acknowledged
            elif following in sent:
                sent.remove(following)
            else:
                break
            lowest = following
        self.lowest = lowest
        found = codec.acknowledge(last, multiple=True) if last else b""
        if waiting and (all or len(waiting) > _MOST_WAITING):
            found += b"".join(map(codec.acknowledge, sorted(waiting)))
            sent |= waiting
            waiting.clear()
        return found


class Subscription:
    """The subscription of one connection to one queue. Used by the receiving thread alone.

    Attributes:
        number: tells its delivery tags from those of the subscriptions before it.
    """

    def __init__(self, connection: Connection, queue: str, *, number: int, prefetch: int) -> None:
        self.connection = connection
        self.number = number
        self._queue = queue
        #: Of the next :meth:`start`.
        self.prefetch = prefetch
        self._acks = Acks()
        self._handed_back: list[int] = []
        self._level = 0
        self._count = 0
        self._has_quarantine = False
        self._try_at = 0.0
        #: Whether the queue is consumed.
        self.is_started = False

    def start(self) -> None:
        """Consume the queue."""
        self._subscribe(0)
        self.is_started = True

    def _subscribe(self, level: int) -> None:
        self._count += 1
        self._tag = f"{WORK_TAG}-{self._count}"
        self._room = min(self.prefetch + _AHEAD[level][1], MOST_PREFETCH)
        self._since = self.connection.delivered
        self._level = level
        self._consume(self._queue, self._tag, self._room)

    def _consume(self, queue: str, tag: str, prefetch: int) -> None:
        self.connection.calls(
            [
                spec.Basic.Qos(prefetch_count=prefetch),
                spec.Basic.Consume(queue=queue, consumer_tag=tag),
            ]
        )

    def subscribe_quarantine(self, queue: str) -> None:
        """Consume the quarantine queue of this process too, with no prefetch limit."""
        self._consume(queue, QUARANTINE_TAG, 0)
        self._has_quarantine = True

    @property
    def has_quarantine(self) -> bool:
        return self._has_quarantine

    def fetch_ahead(self, rate: float) -> None:
        """Prefetch as befits so many messages a second."""
        level = self._level
        if level + 1 < len(_AHEAD) and rate > _AHEAD[level + 1][0]:
            level += 1
        elif rate < _AHEAD[level][0] / 2:
            level -= 1
        if not self.is_started or level == self._level or self._has_quarantine:
            return
        if time.monotonic() < self._try_at:
            return
        if self._is_full() or (level > self._level and self._fill()) or self._is_idle(rate):
            self._cancel()
            self._subscribe(level)
        else:
            self._try_at = time.monotonic() + _RESTS

    def _fill(self) -> bool:
        """Wait until the consumer has all that it may have."""
        deadline = time.monotonic() + _FILLS
        while not self._is_full():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.connection.read(left)
        return True

    def _is_full(self) -> bool:
        return self._unsettled() >= self._room

    def _is_idle(self, rate: float) -> bool:
        """Whether there was nothing to do of late, and most likely nothing is under way."""
        return rate == 0 and self._unsettled() == 0

    def _unsettled(self) -> int:
        """How many messages the consumer has, as RabbitMQ counts them."""
        return self.connection.delivered - self._since - self._acks.sent_after(self._since)

    @property
    def is_busy(self) -> bool:
        """Whether jobs are short and many."""
        return self._level > 0

    def _cancel(self) -> None:
        self.connection.call(spec.Basic.Cancel(consumer_tag=self._tag))

    def acknowledge(self, number: int) -> None:
        """Done with a delivery; :meth:`flush` says so."""
        self._acks.add(number)

    def hand_back(self, number: int) -> None:
        """Not done with a delivery; :meth:`flush` says so."""
        self._handed_back.append(number)
        self._acks._sent.add(number)

    def flush(self, *, all: bool) -> None:
        """Send what is acknowledged and handed back."""
        data = b""
        if self._handed_back:
            # First: an acknowledgement of several would take these messages as done too.
            data = b"".join(map(codec.hand_back, self._handed_back))
            self._handed_back.clear()
        data += self._acks.frames(all=all)
        if data:
            self.connection.send(data)

    def synchronise(self) -> None:
        """Send all that is acknowledged; RabbitMQ has seen it when this returns."""
        self.flush(all=True)
        self.connection.fence()

    def stop(self) -> None:
        """Consume no more, and hand back what was not taken."""
        self.flush(all=True)
        if self.is_started:
            self._cancel()  # RabbitMQ answers when the queue knows, also of what is acknowledged
            self.is_started = False
        for content in self.connection.contents:
            self.hand_back(content.number)
        self.connection.contents.clear()
        self.flush(all=True)


#: Bytes that what was fetched and is not settled may have, about.
MOST_BYTES = 32 * 1024 * 1024
#: As many are fetched while nothing is known of their size.
_FIRST = 200
#: The mean is of so many, the last ones more than those before.
_OF = 32


class Sizes:
    """How many messages fit into the memory of a queue: RabbitMQ counts messages, not bytes."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = 0.0
        self._most = _FIRST

    def saw(self, size: int) -> None:
        """A message of so many bytes has come."""
        self._count += 1
        self._mean += (size - self._mean) / min(self._count, _OF)

    @property
    def most(self) -> int:
        """How many may be fetched at a time.

        It does not follow each change, for to fetch more or fewer takes a consumer anew.
        """
        if self._count >= _OF:
            fit = int(MOST_BYTES / max(1.0, self._mean)) or 1
            if not self._most / 2 < fit < self._most * 4:
                self._most = fit
        return self._most
