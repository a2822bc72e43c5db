"""What this process holds of one queue on Redis, and what of it waits to be sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from threading import Lock

from ...middleware.delivery import Batch, Delivery
from ..settlement import Settlement, settled_tags


@dataclass(slots=True)
class Outbox:
    """What waits to be sent with the next exchange.

    Attributes:
        deliveries: whose outcomes these are.
        size: how many messages it takes off this process's hands.
        bytes: and how many bytes.
    """

    settlement: Settlement = field(default_factory=Settlement)
    deliveries: list[Delivery] = field(default_factory=list)
    put_back: list[bytes] = field(default_factory=list)
    size: int = 0
    bytes: int = 0


class Hands:
    """What this process holds of one queue.

    A delivery is told from a later one of the same id by its tag, which is one object from the
    fetch to the settlement: another worker may have taken the message over and put it back, so
    that this process has fetched it (or another message of that id) anew.

    It outlives its consumer: Dramatiq makes a new one after a pause, and what
    was fetched by the old one is finished and settled all the same.

    Attributes:
        settled: by worker threads, for the next exchange; no lock, single operations only.
        sending: held for one round trip; guards what follows.
        outbox: what is to be sent, until it was.
        held: the tags that Redis has in flight for us, as far as we know, by id.
        yielded, returned: messages given to Dramatiq, and of them settled.
        bytes: of the bodies in this process.
    """

    def __init__(self) -> None:
        self.settled: deque[tuple[Settlement, Delivery]] = deque()
        self.sending = Lock()
        self.outbox = Outbox()
        self.held: dict[bytes, bytes] = {}
        #: Of these, the tags of deliveries that another worker is known to have taken over.
        self._lost: dict[bytes, bytes] = {}
        self.yielded = 0
        self.returned = 0
        self.bytes = 0
        self.suspect_in_hand = False

    def collect(self) -> Outbox:
        """All that waits to be sent; under ``sending``. It stays in the outbox until it was."""
        outbox = self.outbox
        while self.settled:
            settlement, delivery = self.settled.popleft()
            self._add(outbox, settlement)
            outbox.deliveries.append(delivery)
            outbox.size += size_of(delivery)
            outbox.bytes += delivery.raw_size
        return outbox

    def sent(self, outbox: Outbox) -> None:
        """The outbox has been carried out; under ``sending``."""
        self.outbox = Outbox()
        self.returned += outbox.size
        self.bytes -= outbox.bytes
        self.forget(settled_tags(outbox.settlement))
        self.forget(outbox.put_back)

    def holds(self, tag: bytes) -> bool:
        """Whether a tag is that of the last delivery of its id."""
        return self.held.get(tag) is tag

    def forget(self, tags: Iterable[bytes]) -> None:
        """These deliveries are not in flight for us any more."""
        held = self.held
        for tag in tags:
            if held.get(tag) is tag:
                del held[tag]
                self._lost.pop(tag, None)

    def newly_lost(self, in_flight: Set[bytes]) -> list[bytes]:
        """The ids of deliveries that another worker has taken over since the last call.

        Args:
            in_flight: the ids that Redis has in flight for us.
        """
        held, lost = self.held, self._lost
        found = [id for id, tag in held.items() if id not in in_flight and lost.get(id) is not tag]
        lost.update((id, held[id]) for id in found)
        return found

    def _add(self, outbox: Outbox, settlement: Settlement) -> None:
        """Let a settlement be sent, as far as its deliveries are the last ones of their ids."""
        held = self.held
        outbox.settlement.done += [tag for tag in settlement.done if held.get(tag) is tag]
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


def size_of(delivery: Delivery) -> int:
    """As how many messages it counts."""
    return delivery.size
