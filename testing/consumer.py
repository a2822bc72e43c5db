"""The consumer of one queue in memory: takes messages and applies settlements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dramatiq import MessageProxy

from ..brokers.base import RelayBroker
from ..brokers.coalescing import CoalescingConsumer, batch_prefetch
from ..brokers.consumer import RelayConsumer
from ..brokers.contract import Batching
from ..brokers.settlement import Settlement
from ..core.errors import PartsFailed
from ..middleware.delivery import Batch, Delivery
from .queues import MemoryQueue, MemoryQueues, Stored


class MemoryConsumer(RelayConsumer):
    """Takes one message at a time: a message that has not started is still waiting.

    Attributes:
        max_long_runs: maximum number of long-running async attempts that do not count against
            the prefetch limit.
    """

    def __init__(
        self,
        broker: RelayBroker,
        queues: MemoryQueues,
        queue_name: str,
        *,
        prefetch: int,
        timeout_ms: int,
    ) -> None:
        super().__init__(broker, queue_name, prefetch=prefetch, timeout_ms=timeout_ms)
        self._queues = queues
        self._smallest_prefetch = prefetch
        self.max_long_runs = 0

    def adapt(self, batching: Mapping[str, Batching]) -> None:
        """Set the limits by the actors that are declared now."""
        options = self.broker.options
        limit = (options.concurrency or {}).get(self.queue_name)
        async_limit = self.broker.in_flight_limit(self.queue_name)
        self.prefetch = max(self._smallest_prefetch, batch_prefetch(batching))
        if async_limit is not None:
            self.prefetch = max(self.prefetch, 2 * async_limit)
        elif limit is not None and not batching:
            self.prefetch = min(self.prefetch, limit)
        self.max_long_runs = self.broker.in_flight_total(self.queue_name) - (async_limit or 0)
        self._throttles = self.broker.throttles(self.queue_name)

    @property
    def _queue(self) -> MemoryQueue:
        return self._queues[self.queue_name]

    # -- receive -----------------------------------------------------------------------

    def receive(self, timeout: float) -> Delivery | None:
        clock, changed = self.broker.clock, self._queues.changed
        deadline = clock.monotonic() + timeout
        with changed:
            while True:
                stored = self._queue.take() if self._may_take() else None
                if stored is not None:
                    delivery = self._decode(stored)
                    if delivery is not None:
                        return delivery
                    continue
                remaining = deadline - clock.monotonic()
                if remaining <= 0 or self.broker.is_draining:
                    return None
                scheduled = self._queue.scheduled
                if scheduled:
                    until_due = scheduled[0][0] / 1000 + 0.001 - clock.time()
                    remaining = min(remaining, max(0.001, until_due))
                changed.wait(remaining)

    def _may_take(self) -> bool:
        if self.is_closing or self.broker.is_draining:
            return False
        in_flight = len(self._queue.in_flight)
        sink_limit = self.sink_limit()
        if sink_limit is not None:
            return in_flight < sink_limit
        if self.max_long_runs:
            in_flight -= min(self.max_long_runs, self.broker.async_runner.long(self.queue_name))
        return in_flight < self.prefetch * self.batch_scale()

    def _decode(self, stored: Stored) -> Delivery | None:
        delivery = self.decoded(stored.body, stored, stored.id)
        if isinstance(delivery, Settlement):
            self._queue.settle(delivery, {})
            return None
        return delivery

    # -- settle ------------------------------------------------------------------------

    def settles_at_once(self, delivery: Delivery) -> bool:
        return True

    def apply(self, settlement: Settlement, delivery: Delivery) -> None:
        with self._queues.changed:
            self._queue.settle(settlement, _causes(delivery))
            self._queues.changed.notify_all()

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        with self._queues.changed:
            for message in messages:
                assert isinstance(message, Delivery)
                self._queue.requeue(message.tag)
            self._queues.changed.notify_all()

    def close(self) -> None:
        self.finish()


class MemoryBatches(CoalescingConsumer):
    """Collects the messages of batch actors, and marks the messages that it delivers.

    The actors of a test are often declared while its worker runs, so batches and limits are
    updated then.
    """

    def __init__(self, inner: MemoryConsumer, queues: MemoryQueues) -> None:
        super().__init__(inner, {})
        self._memory_consumer = inner
        self._queues = queues
        self._known: list[object] = []

    def receive(self, timeout: float) -> Delivery | None:
        self._adapt()
        delivery = super().receive(timeout)
        if delivery is not None:
            with self._queues.changed:
                for part in _deliveries(delivery):
                    part.tag.is_given = True
        return delivery

    def _add(self, delivery: Delivery, now: float) -> Delivery | None:
        self._adapt()  # an actor may have been declared while receive() waited
        return super()._add(delivery, now)

    def _adapt(self) -> None:
        actors: list[object] = list(self.broker.actors.values())
        if actors != self._known:
            self._known = actors
            self._batching = self.broker.batching(self.queue_name)
            self._throttles = self.broker.throttles(self.queue_name)
            self._memory_consumer.adapt(self._batching)

    def close(self) -> None:
        self.is_closing = True
        super().close()

    @property
    def next_batch(self) -> float | None:
        """Monotonic seconds at which the next open batch is delivered; None without any."""
        return min((batch.due for batch in list(self._open.values())), default=None)


def _deliveries(delivery: Delivery) -> Iterable[Delivery]:
    """The deliveries that have a tag: those of the parts of a batch made in this process."""
    if isinstance(delivery, Batch) and not delivery.was_stored:
        return delivery.parts
    return (delivery,)


def _causes(delivery: Delivery) -> dict[str, BaseException | None]:
    """The exception of the attempt, by message id."""
    error = delivery.exception
    if not isinstance(delivery, Batch):
        return {delivery.message_id: error}
    failures = error.failures if isinstance(error, PartsFailed) else {}
    return {
        part.message_id: failures.get(index, error) for index, part in enumerate(delivery.parts)
    }
