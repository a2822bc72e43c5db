"""The messages of one queue that are in flight for this process, and their settlements."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from threading import Lock

from ...middleware.delivery import Batch, Delivery
from ..errors import BrokerRefused, BrokerUnavailable
from ..refused import Refused
from ..settlement import Replacement, Settlement, settled_tags
from .commands import QueueCommands


@dataclass(slots=True)
class Outbox:
    """The settlements that are sent with the next exchange.

    Attributes:
        deliveries: the settled deliveries.
        size: number of messages that are no longer in flight once it was sent.
        bytes: bytes of their bodies.
    """

    settlement: Settlement = field(default_factory=Settlement)
    deliveries: list[Delivery] = field(default_factory=list)
    put_back: list[bytes] = field(default_factory=list)
    size: int = 0
    bytes: int = 0


class InFlight:
    """The messages of one queue that Redis has in flight for this process.

    A delivery is told from a later one of the same id by its tag, which is one object from the
    fetch to the settlement: another worker may have taken the message over and put it back, so
    that this process has fetched it (or another message of that id) anew.

    It outlives its consumer: Dramatiq makes a new one after a pause, and what
    was fetched by the old one is finished and settled all the same.

    Attributes:
        settled: by worker threads, for the next exchange; no lock, single operations only.
        sending: held for one round trip; guards what follows.
        outbox: what is to be sent, until it was.
        refused: replacements that Redis refused.
        tags: of the deliveries in flight, as far as this process knows, by message id.
        yielded: number of messages given to Dramatiq.
        returned: number of those messages that were settled.
        bytes: bytes of the bodies in this process.
        suspect_is_running: whether a suspect runs; suspects run one at a time.
    """

    def __init__(self, commands: QueueCommands, queue: str) -> None:
        self._commands = commands
        self._queue = queue
        self.settled: deque[tuple[Settlement, Delivery]] = deque()
        self.sending = Lock()
        self.outbox = Outbox()
        self.refused: Refused[Replacement] = Refused(commands.clock, queue)
        #: Of messages that are done and that another worker has taken over, the bodies by id.
        self._taken_over: dict[bytes, bytes] = {}
        self.tags: dict[bytes, bytes] = {}
        #: Of these deliveries, the tags of those that another worker is known to have taken over.
        self._lost: dict[bytes, bytes] = {}
        self.yielded = 0
        self.returned = 0
        self.bytes = 0
        self.suspect_is_running = False

    def collect(self) -> Outbox:
        """Collect settlements in the outbox, where they stay until sent; under ``sending``."""
        outbox = self.outbox
        while self.settled:
            settlement, delivery = self.settled.popleft()
            self._add(outbox, settlement)
            outbox.deliveries.append(delivery)
            outbox.size += size_of(delivery)
            outbox.bytes += delivery.raw_size
        return outbox

    def exchange(
        self, room_beside: Callable[[Outbox], int], *, is_last: bool = False
    ) -> tuple[int, list[tuple[bytes, bytes, int]]]:
        """Send the outbox, and fetch; under ``sending``.

        Args:
            room_beside: how many messages to fetch, once an outbox was sent.
            is_last: also retry refused messages that are not due yet.

        Returns:
            Milliseconds until the next message is due, -1 for none; and of each message fetched
            its id, its body and how many workers it may have killed.
        """
        outbox = self.collect()
        for one in self.refused.take_due(is_last=is_last):
            outbox.bytes += _written(one)
            self._add(outbox, Settlement([one]))
        wait, fetched, taken_over = self._send(outbox, room_beside(outbox))
        self.outbox = Outbox()
        self.returned += outbox.size
        self.bytes -= outbox.bytes
        self.forget(settled_tags(outbox.settlement))
        self.forget(outbox.put_back)
        self.tags.update((id, id) for id, _, _ in fetched)
        if taken_over:
            self._taken_over |= bodies_of(outbox.deliveries, taken_over)
        if self._taken_over:
            self._commands.remove_done(self._queue, self._taken_over)
            self._taken_over = {}
        return wait, fetched

    def _send(
        self, outbox: Outbox, room: int
    ) -> tuple[int, list[tuple[bytes, bytes, int]], list[bytes]]:
        """Carry the outbox out; what Redis refuses of it is moved to ``refused``."""
        settlement = outbox.settlement
        try:
            answer = self._commands.exchange(self._queue, room, settlement, outbox.put_back)
        except BrokerRefused:
            if not settlement.replacements:
                raise
            # Redis refuses the call as a whole, and does not say because of which message.
            others = Settlement(done=settlement.done)
            taken_over = self._commands.exchange(self._queue, 0, others, outbox.put_back)[2]
            self._replace_each(settlement.replacements)
            settlement.replacements = []
            return 0, [], taken_over  # fetched with the next call
        if settlement.replacements:
            self.refused.settled()
        return answer

    def _replace_each(self, replacements: Sequence[Replacement]) -> None:
        refused: list[Replacement] = []
        for index, one in enumerate(replacements):
            try:
                self._commands.exchange(self._queue, 0, Settlement([one]), ())
            except BrokerRefused as error:
                refused.append(one)
                why: BrokerRefused | BrokerUnavailable = error
            except BrokerUnavailable as error:
                refused += replacements[index:]
                why = error
                break
            else:
                self.forget(one.tags)
        if refused:
            self.bytes += sum(map(_written, refused))
            self.refused.add(refused, why)

    def give_back_refused(self) -> None:
        """Put back the messages whose outcome Redis does not take; under ``sending``."""
        for one in self.refused.take_due(is_last=True):
            self.outbox.bytes += _written(one)
            self.outbox.put_back += filter(self.holds, one.tags)

    def holds(self, tag: bytes) -> bool:
        """Whether a tag is that of the last delivery of its id."""
        return self.tags.get(tag) is tag

    def forget(self, tags: Iterable[bytes]) -> None:
        """Forget deliveries that are no longer in flight for this process."""
        known = self.tags
        for tag in tags:
            if known.get(tag) is tag:
                del known[tag]
                self._lost.pop(tag, None)

    def newly_lost(self, in_flight: Set[bytes]) -> list[bytes]:
        """The ids of deliveries that another worker has taken over since the last call.

        Args:
            in_flight: the ids that Redis has in flight for us.
        """
        known, lost = self.tags, self._lost
        found = [id for id, tag in known.items() if id not in in_flight and lost.get(id) is not tag]
        lost.update((id, known[id]) for id in found)
        return found

    def _add(self, outbox: Outbox, settlement: Settlement) -> None:
        """Let a settlement be sent, as far as its deliveries are the last ones of their ids."""
        known = self.tags
        outbox.settlement.done += [tag for tag in settlement.done if known.get(tag) is tag]
        for replacement in settlement.replacements:
            current = [tag for tag in replacement.tags if self.holds(tag)]
            if len(current) == len(replacement.tags):
                outbox.settlement.replacements.append(replacement)
            else:
                outbox.put_back += current


def bodies_of(deliveries: Iterable[Delivery], ids: Iterable[bytes]) -> dict[bytes, bytes]:
    """The bodies of some messages as they were fetched, by id."""
    raw = {part.tag: part.raw for one in deliveries for part in _parts(one)}
    return {id: body for id in ids if (body := raw.get(id)) is not None}


def _parts(delivery: Delivery) -> Sequence[Delivery]:
    if isinstance(delivery, Batch) and not delivery.was_stored:
        return delivery.parts
    return [delivery]


def _written(replacement: Replacement) -> int:
    return sum(len(write.body) for write in replacement.writes)


def size_of(delivery: Delivery) -> int:
    """The number of messages as which a delivery counts."""
    return delivery.size
