"""What this process holds of one queue on Redis, and what of it waits to be sent."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from threading import Lock

from ...middleware.delivery import Delivery
from ..settlement import Settlement, settled_tags


@dataclass(slots=True)
class Outbox:
    """What waits to be sent with the next exchange.

    Attributes:
        size: how many messages it takes off this process's hands.
        bytes: and how many bytes.
    """

    settlement: Settlement = field(default_factory=Settlement)
    put_back: list[bytes] = field(default_factory=list)
    size: int = 0
    bytes: int = 0


class Hands:
    """What this process holds of one queue.

    It outlives its consumer: Dramatiq makes a new one after a pause, and what
    was fetched by the old one is finished and settled all the same.

    Attributes:
        settled: by worker threads, for the next exchange; no lock, single operations only.
        sending: held for one round trip; guards what follows.
        outbox: what is to be sent, until it was.
        held: ids that Redis has in flight for us, as far as we know.
        yielded, returned: messages given to Dramatiq, and of them settled.
        bytes: of the bodies in this process.
    """

    def __init__(self) -> None:
        self.settled: deque[tuple[Settlement, Delivery]] = deque()
        self.sending = Lock()
        self.outbox = Outbox()
        self.held: set[bytes] = set()
        self.yielded = 0
        self.returned = 0
        self.bytes = 0
        self.suspect_in_hand = False

    def collect(self) -> Outbox:
        """All that waits to be sent; under ``sending``. It stays in the outbox until it was."""
        outbox = self.outbox
        while self.settled:
            settlement, delivery = self.settled.popleft()
            outbox.settlement.add(settlement)
            outbox.size += size_of(delivery)
            outbox.bytes += delivery.raw_size
        return outbox

    def sent(self, outbox: Outbox) -> None:
        """The outbox has been carried out; under ``sending``."""
        self.outbox = Outbox()
        self.returned += outbox.size
        self.bytes -= outbox.bytes
        self.held.difference_update(settled_tags(outbox.settlement), outbox.put_back)


def size_of(delivery: Delivery) -> int:
    """As how many messages it counts."""
    return delivery.size
