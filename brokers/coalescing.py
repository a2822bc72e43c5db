"""Many messages, one call: the consumer of actors that declare ``batch_size``.

Wraps the consumer of any broker. Parts are fetched, counted and settled one
by one as ever; only the call is shared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dramatiq import MessageProxy

from ..middleware.delivery import Batch, Delivery
from .consumer import RelayConsumer
from .contract import Batching
from .settlement import Settlement

#: A batch of so many bytes is full: a batch that fails is written as one message, and a
#: broker takes none of any size (RabbitMQ 4: 16 MiB).
MOST_BYTES = 8 * 1024 * 1024
#: Where so many messages came at once there are more, and a batch that has waited enough takes
#: them in before it goes out: on a busy machine a fetch takes longer than a batch waits.
_MANY = 100
#: But not for longer than so many times its wait.
_LATEST = 4


@dataclass(slots=True)
class _Collected:
    """A batch that is being collected.

    Attributes:
        due: when it goes out, however full it is,
        latest: unless many more are there; then it does not go out later than this.
        most: the weight at which it is full.
    """

    due: float
    latest: float
    most: int
    parts: list[Delivery] = field(default_factory=list)
    weight: int = 0
    bytes: int = 0


class CoalescingConsumer(RelayConsumer):
    """Collects the messages of batch actors until a batch is full or has waited enough.

    A batch goes out when it weighs ``batch_size`` or ``batch_wait`` after its first part
    came, whichever is first (later while many more are there); a part that does not fit in
    begins the next one. Messages of other actors on the queue pass through as they are.
    """

    def __init__(self, inner: RelayConsumer, batching: Mapping[str, Batching]) -> None:
        super().__init__(
            inner.broker,
            inner.queue_name,
            prefetch=inner.prefetch,
            timeout_ms=int(inner.timeout * 1000),
        )
        self._inner = inner
        self._batching = batching
        self._collected: dict[str, _Collected] = {}
        #: Received, and not looked at yet.
        self._received: deque[Delivery] = deque()
        self._more_are_there = False

    def receive(self, timeout: float) -> Delivery | None:
        clock = self.broker.clock
        now = clock.monotonic()
        deadline = now + timeout
        while True:
            until = deadline
            if self.sink_limit() != 0:  # else what is collected waits as well
                for name, batch in self._collected.items():
                    if batch.due <= now and not (self._more_are_there and now < batch.latest):
                        return self._release(name)
                    until = min(until, batch.due)
            if not self._received:
                delivery = self._inner.receive(max(0.0, until - now))
                now = clock.monotonic()
                if delivery is not None:
                    self._received.append(delivery)
                    self._received.extend(self._inner.receive_buffered())
                self._more_are_there = len(self._received) >= _MANY
                if not self._received and now >= deadline:
                    # Even in the middle of a batch: Dramatiq's thread looks at its own state
                    # (pause, stop) once a timeout.
                    return None
            while self._received:
                ready = self._collect(self._received.popleft(), now)
                if ready is not None:
                    return ready

    def _collect(self, delivery: Delivery, now: float) -> Delivery | None:
        """Put a message into its batch; what is to go out now, if anything is."""
        name = delivery.actor_name
        batching = self._batching.get(name)
        if batching is None or isinstance(delivery, Batch):
            return delivery
        if delivery.alone:
            return Batch.of([delivery])
        weight = 1 if batching.weight is None else batching.weight(delivery.kwargs)
        size = delivery.raw_size
        batch, full = self._collected.get(name), None
        if batch is not None and (
            batch.weight + weight > batch.most or batch.bytes + size > MOST_BYTES
        ):
            full, batch = self._release(name), None
        if batch is None:
            stretch = self.batch_scale()
            wait = stretch * batching.wait.total_seconds()
            due, latest = now + wait, now + _LATEST * wait
            batch = self._collected[name] = _Collected(due, latest, stretch * batching.size)
        batch.parts.append(delivery)
        batch.weight += weight
        batch.bytes += size
        if batch.weight >= batch.most or batch.bytes >= MOST_BYTES:
            if full is None:
                return self._release(name)
            batch.due = batch.latest = now  # full as well: it goes out next
        return full

    def _release(self, actor_name: str) -> Batch:
        return Batch.of(self._collected.pop(actor_name).parts)

    def settles_at_once(self, delivery: Delivery) -> bool:
        return self._inner.settles_at_once(delivery)

    def apply(self, settlement: Settlement, delivery: Delivery) -> None:
        self._inner.apply(settlement, delivery)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        self._inner.requeue(_spread(messages))

    def close(self) -> None:
        """Hand back what was being collected, then close."""
        waiting = [part for batch in self._collected.values() for part in batch.parts]
        waiting += self._received
        self._collected.clear()
        self._received.clear()
        self._inner.requeue(waiting)
        self._inner.close()


def _spread(messages: Iterable[MessageProxy]) -> Iterable[MessageProxy]:
    for message in messages:
        if isinstance(message, Batch) and not message.was_stored:
            yield from message.parts
        else:
            yield message
