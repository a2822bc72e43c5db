"""Many messages, one call: the consumer of actors that declare ``batch_size``.

Wraps the consumer of any broker. Parts are fetched, counted and settled one
by one as ever; only the call is shared.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from dramatiq import MessageProxy

from ..middleware.delivery import Batch, Delivery
from .consumer import RelayConsumer
from .settlement import Settlement

#: A batch of so many bytes is full: a batch that fails is written as one message, and a
#: broker takes none of any size (RabbitMQ 4: 16 MiB).
MOST_BYTES = 8 * 1024 * 1024


class CoalescingConsumer(RelayConsumer):
    """Collects the messages of batch actors until a batch is full or has waited enough.

    A batch goes out when it has ``batch_size`` parts or ``batch_wait`` after its
    first part came, whichever is first. Messages of other actors on the queue
    pass through as they are.
    """

    def __init__(self, inner: RelayConsumer, batching: dict[str, tuple[int, timedelta]]) -> None:
        super().__init__(
            inner.broker,
            inner.queue_name,
            prefetch=inner.prefetch,
            timeout_ms=int(inner.timeout * 1000),
        )
        self._inner = inner
        self._batching = batching
        self._parts: dict[str, list[Delivery]] = {}
        self._due: dict[str, float] = {}
        self._bytes: dict[str, int] = {}

    def receive(self, timeout: float) -> Delivery | None:
        clock = self.broker.clock
        deadline = clock.monotonic() + timeout
        while True:
            now = clock.monotonic()
            ripe = next((name for name, due in self._due.items() if due <= now), None)
            if ripe is not None:
                return self._batch(ripe)
            until = min([deadline, *self._due.values()])
            delivery = self._inner.receive(until - now)
            if delivery is not None:
                name = delivery.actor_name
                if name not in self._batching or isinstance(delivery, Batch):
                    return delivery
                if delivery.alone:
                    return Batch.of([delivery])
                size, wait = self._batching[name]
                parts = self._parts.setdefault(name, [])
                if not parts:
                    self._due[name] = clock.monotonic() + wait.total_seconds()
                parts.append(delivery)
                self._bytes[name] = self._bytes.get(name, 0) + delivery.raw_size
                if len(parts) >= size or self._bytes[name] >= MOST_BYTES:
                    return self._batch(name)
            elif clock.monotonic() >= deadline:
                # Even in the middle of a batch: Dramatiq's thread looks at its own state
                # (pause, stop) once a timeout.
                return None

    def _batch(self, actor_name: str) -> Batch:
        del self._due[actor_name]
        del self._bytes[actor_name]
        return Batch.of(self._parts.pop(actor_name))

    def settles_at_once(self, delivery: Delivery) -> bool:
        return self._inner.settles_at_once(delivery)

    def carry_out(self, settlement: Settlement, delivery: Delivery) -> None:
        self._inner.carry_out(settlement, delivery)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        self._inner.requeue(_spread(messages))

    def close(self) -> None:
        """Hand back what was being collected, then close."""
        waiting = [part for parts in self._parts.values() for part in parts]
        self._parts.clear()
        self._due.clear()
        self._bytes.clear()
        self._inner.requeue(waiting)
        self._inner.close()


def _spread(messages: Iterable[MessageProxy]) -> Iterable[MessageProxy]:
    for message in messages:
        if isinstance(message, Batch) and not message.was_stored:
            yield from message.parts
        else:
            yield message
