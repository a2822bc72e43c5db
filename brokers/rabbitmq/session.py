"""One connection that consumes one queue, with what is particular to it.

How far to fetch ahead: a consumer's prefetch cannot be changed, and quorum
queues know no prefetch of the channel. So where jobs are short a second
consumer of the same queue is added on the same channel, with a larger one, and
taken away when they are not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pika import spec

from . import wire
from .link import Link

WORK, TRIAL = "work", "trial"
#: Messages a second, and the prefetch that is added from there on: 30 to 100 ms of work.
_AHEAD = ((0, 0), (1_000, 64), (4_000, 400))
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
        found = wire.acknowledge(last, multiple=True) if last else b""
        if waiting and (all or len(waiting) > _MOST_WAITING):
            found += b"".join(map(wire.acknowledge, sorted(waiting)))
            sent |= waiting
            waiting.clear()
        return found


class Session:
    """See the module. Used by the receiving thread alone.

    Attributes:
        number: tells its delivery tags from those of the sessions before it.
    """

    def __init__(self, link: Link, queue: str, *, number: int, prefetch: int) -> None:
        self.link = link
        self.number = number
        self._queue = queue
        self._acks = Acks()
        self._handed_back: list[int] = []
        self._level = 0
        self._tags: list[str] = []
        self._subscribe(queue, WORK, prefetch)

    def _subscribe(self, queue: str, tag: str, prefetch: int) -> None:
        self.link.calls(
            [
                spec.Basic.Qos(prefetch_count=min(prefetch, 65_535)),
                spec.Basic.Consume(queue=queue, consumer_tag=tag),
            ]
        )
        self._tags.append(tag)

    def subscribe_trials(self, queue: str) -> None:
        """Consume the queue of this process's trials as well, without a limit."""
        self._subscribe(queue, TRIAL, 0)

    @property
    def has_trials(self) -> bool:
        return TRIAL in self._tags

    def fetch_ahead(self, rate: float) -> None:
        """Prefetch as befits so many messages a second."""
        level = self._level
        if level + 1 < len(_AHEAD) and rate > _AHEAD[level + 1][0]:
            level += 1
        elif rate < _AHEAD[level][0] / 2:
            level -= 1
        if level == self._level:
            return
        if self._level:
            self._cancel(f"ahead-{self._level}")
        if level:
            self._subscribe(self._queue, f"ahead-{level}", _AHEAD[level][1])
        self._level = level

    @property
    def is_busy(self) -> bool:
        """Whether jobs are short and many."""
        return self._level > 0

    def _cancel(self, tag: str) -> None:
        # What is under way to it still comes, and is as good as any other.
        self.link.call(spec.Basic.Cancel(consumer_tag=tag))
        self._tags.remove(tag)

    def acknowledge(self, number: int) -> None:
        """Done with a delivery; :meth:`flush` says so."""
        self._acks.add(number)

    def hand_back(self, number: int) -> None:
        """Not done with a delivery; :meth:`flush` says so."""
        self._handed_back.append(number)
        self._acks._sent.add(number)

    def flush(self, *, all: bool) -> None:
        """Send what is acknowledged and handed back."""
        data = self._acks.frames(all=all)
        if self._handed_back:
            data += b"".join(map(wire.hand_back, self._handed_back))
            self._handed_back.clear()
        if data:
            self.link.send(data)

    def synchronise(self) -> None:
        """Send all that is acknowledged; RabbitMQ has seen it when this returns."""
        self.flush(all=True)
        # It answers in order. This one says nothing to consumers that are there already.
        self.link.call(spec.Basic.Qos(prefetch_count=1))

    def stop(self) -> None:
        """Consume no more, and hand back what was not taken."""
        for tag in list(self._tags):
            if tag != TRIAL:
                self._cancel(tag)
        for content in self.link.contents:
            self.hand_back(content.number)
        self.link.contents.clear()
        self.flush(all=True)
