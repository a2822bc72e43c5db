"""Consumer of actors that declare ``batch_size``: passes many messages to one call.

Wraps the consumer of any broker, which fetches and settles the messages one by one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dramatiq import MessageProxy

from ..core.errors import describe
from ..middleware.delivery import Batch, Delivery
from .consumer import RelayConsumer, parts_of
from .contract import Batching
from .settlement import Settlement

logger = logging.getLogger("formrelay.workers")

#: Maximum bytes of a batch. A batch that fails is written as one message, and brokers limit the
#: size of a message (RabbitMQ 4: 16 MiB).
MAX_BATCH_BYTES = 8 * 1024 * 1024
#: A fetch of this many messages means that more are waiting. A batch that is due then waits for
#: them: on a busy machine a fetch takes longer than ``batch_wait``.
_LARGE_FETCH = 100
#: Maximum wait of a batch for those messages, as a multiple of ``batch_wait``.
_MAX_WAIT_FACTOR = 4


@dataclass(slots=True)
class _OpenBatch:
    """A batch that is still being filled.

    Attributes:
        due: monotonic seconds at which it is delivered, if no more messages are waiting.
        latest: monotonic seconds at which it is delivered in any case.
        capacity: the weight at which it is full.
        max_bytes: the bytes at which it is full.
    """

    due: float
    latest: float
    capacity: int
    max_bytes: int
    parts: list[Delivery] = field(default_factory=list)
    weight: int = 0
    bytes: int = 0


class CoalescingConsumer(RelayConsumer):
    """Collects the messages of batch actors into batches.

    A batch is delivered when its weight reaches ``batch_size`` or ``batch_wait`` after its first
    message, whichever is first; later while many more messages are waiting. A message that does
    not fit starts the next batch. Messages with different keys (``batch_key``) have batches of
    their own, open at the same time. Messages of other actors on the queue are delivered unchanged.
    """

    collects_batches = True

    def __init__(self, inner: RelayConsumer, batching: Mapping[str, Batching]) -> None:
        super().__init__(
            inner.broker,
            inner.queue_name,
            prefetch=inner.prefetch,
            timeout_ms=int(inner.timeout * 1000),
        )
        self._inner = inner
        self._batching = batching
        #: By the actor and the batch key of the messages.
        self._open: dict[tuple[str, str], _OpenBatch] = {}
        #: Messages that are not yet added to a batch.
        self._received: deque[Delivery] = deque()
        self._more_are_waiting = False

    def note_actors(self) -> None:
        super().note_actors()
        self._inner.note_actors()
        self._batching = self.broker.batching(self.queue_name)

    def receive(self, timeout: float) -> Delivery | None:
        if self.broker.is_draining:
            self._return_open()
        clock = self.broker.clock
        now = clock.monotonic()
        deadline = now + timeout
        while True:
            until = deadline
            if self.sink_limit() != 0:  # batches, too, wait while the sink is unavailable
                for group, batch in self._open.items():
                    if batch.due <= now and not (self._more_are_waiting and now < batch.latest):
                        return self._release(group)
                    until = min(until, batch.due)
            if not self._received:
                delivery = self._inner.receive(max(0.0, until - now))
                now = clock.monotonic()
                if delivery is not None:
                    self._received.append(delivery)
                    self._received.extend(self._inner.receive_buffered())
                self._more_are_waiting = len(self._received) >= _LARGE_FETCH
                if not self._received and now >= deadline:
                    # Even while a batch is open: Dramatiq's thread checks once per timeout whether
                    # it is to pause or stop.
                    return None
            while self._received:
                ready = self._add(self._received.popleft(), now)
                if ready is not None:
                    return ready

    def _add(self, delivery: Delivery, now: float) -> Delivery | None:
        """Add a message to its batch; return the batch or message to deliver now, if any."""
        name = delivery.actor_name
        batching = self._batching.get(name)
        if batching is None or isinstance(delivery, Batch):
            return delivery
        if delivery.alone:
            return Batch.of([delivery])
        try:
            weight = 1 if batching.weight is None else batching.weight(delivery.kwargs)
            group = (name, "" if batching.key is None else batching.key(delivery.kwargs))
        except Exception as error:  # in the actor's function, which must not stop the queue
            about = {"actor": name, "message_id": delivery.message_id}
            about["error_message"] = describe(error)
            logger.warning("the message runs alone: batch_weight or batch_key failed", extra=about)
            return Batch.of([delivery])
        size = delivery.raw_size
        batch, full = self._open.get(group), None
        if batch is not None and (
            batch.weight + weight > batch.capacity or batch.bytes + size > batch.max_bytes
        ):
            full, batch = self._release(group), None
        if batch is None:
            scale = self.batch_scale()
            wait = scale * batching.wait.total_seconds()
            due, latest = now + wait, now + _MAX_WAIT_FACTOR * wait
            max_bytes = min(batching.bytes or MAX_BATCH_BYTES, MAX_BATCH_BYTES)
            batch = _OpenBatch(due, latest, scale * batching.size, max_bytes)
            self._open[group] = batch
        batch.parts.append(delivery)
        batch.weight += weight
        batch.bytes += size
        if batch.weight >= batch.capacity or batch.bytes >= batch.max_bytes:
            if full is None:
                return self._release(group)
            batch.due = batch.latest = now  # also full: the next call of receive() delivers it
        return full

    def _release(self, group: tuple[str, str]) -> Batch:
        """Close an open batch and return it."""
        return Batch.of(self._open.pop(group).parts)

    def settles_at_once(self, delivery: Delivery) -> bool:
        return self._inner.settles_at_once(delivery)

    def apply(self, settlement: Settlement, delivery: Delivery) -> None:
        self._inner.apply(settlement, delivery)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        self._inner.requeue(parts_of(messages))

    def finish(self) -> None:
        """Requeue the messages of open batches, then finish."""
        self._return_open()
        self._inner.finish()

    def _return_open(self) -> None:
        """Requeue the messages of open batches."""
        waiting = [part for batch in self._open.values() for part in batch.parts]
        waiting += self._received
        self._open.clear()
        self._received.clear()
        if waiting:
            self._inner.requeue(waiting)

    def close(self) -> None:
        self.finish()
        self._inner.close()


def batch_prefetch(batching: Mapping[str, Batching]) -> int:
    """The prefetch with which one batch runs while the next batch is collected; 0 for no batch."""
    return 2 * max((batch.size for batch in batching.values()), default=0)
