"""The in-memory broker: no server, no thread of its own."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any
from weakref import WeakSet

from dramatiq.middleware import Middleware

from ..brokers.base import RelayBroker
from ..brokers.consumer import RelayConsumer
from ..brokers.contract import BrokerOptions
from ..brokers.envelope import Envelope
from ..core.clock import Clock
from ..state import IdempotencyStore
from ..state.idempotency import MemoryIdempotencyStore
from ..state.memory_history import MemoryHistory
from .clock import MovableClock
from .consumer import MemoryBatches, MemoryConsumer
from .inspector import MemoryInspector
from .limits import with_limits
from .queues import MemoryQueues

#: Seconds between two checks of ``join()``; a change of the queues ends the wait early.
_CHECK_SECONDS = 0.02
#: Seconds after which ``join()`` raises because no worker takes the messages of its queue.
_NO_WORKER_SECONDS = 2.0
_ADVICE = ", and no worker: use the fixture formrelay_worker, or running_worker(broker)"
#: Seconds by which the clock is moved beyond the time at which a message or batch is due.
_MARGIN_SECONDS = 0.002


class MemoryBroker(RelayBroker):
    """Queues in the memory of this process, for tests.

    Sending, middleware, retries, batches, async actors, settlement and dead letters are the code
    of the real brokers. ``join()`` moves the clock to the next retry instead of waiting for it.

    Args:
        options: as of the real brokers.
        clock: the clock of delays, retries, ages and idempotency keys.
        join_timeout: the ``timeout`` of a ``join()`` without one, so that no test hangs.

    Attributes:
        clock: ``clock.move(timedelta(hours=1))`` makes the messages of the next hour due.
        fail_fast_default: whether ``join()`` raises the exception of a dead-lettered job, as
            Dramatiq's StubBroker does.
    """

    clock: MovableClock
    fail_fast_default = True
    messaging_system = "memory"

    def __init__(
        self,
        *,
        options: BrokerOptions | None = None,
        clock: MovableClock | None = None,
        join_timeout: timedelta = timedelta(seconds=60),
    ) -> None:
        clock = clock or MovableClock()
        super().__init__(options or BrokerOptions(), clock=clock)
        self._join_timeout = join_timeout
        self._memory = MemoryQueues(clock, self.options.dead_letter_retention)
        clock.on_move = self._memory.wake
        self._consumers: WeakSet[MemoryBatches] = WeakSet()

    def _default_middleware(self, clock: Clock) -> list[Middleware]:
        return with_limits(super()._default_middleware(clock), clock)

    def add_middleware(self, middleware: Middleware, **position: Any) -> None:
        """Add a middleware; its limits of age and time go by the broker's clock."""
        if hasattr(self, "clock"):  # False for the default middleware, which has its clock
            (middleware,) = with_limits([middleware], self.clock)
        super().add_middleware(middleware, **position)

    def idempotency_store(self) -> IdempotencyStore:
        """Return the store of idempotency keys, whose keys expire by the broker's clock."""
        with self._state_lock:
            if self._idempotency_store is None:
                self._idempotency_store = MemoryIdempotencyStore(clock=self.clock)
            return self._idempotency_store

    def _make_history(self) -> MemoryHistory:
        return MemoryHistory(clock=self.clock)

    def reset(self) -> None:
        """Delete every message, dead letter, idempotency key and the history; set the clock back.

        Call it while no worker runs.
        """
        self._memory.clear()
        with self._state_lock:
            self._idempotency_store = self._history = None
        self.clock.reset()

    # -- send ------------------------------------------------------------------------

    def _put(self, envelopes: Sequence[Envelope], *, is_repetition: bool = False) -> None:
        with self._memory.changed:
            for envelope in envelopes:
                queue = self._memory[envelope.message.queue_name]
                id = envelope.message.message_id
                queue.add(id, envelope.body, envelope.due, envelope.priority)
            self._memory.changed.notify_all()

    def inject(self, queue_name: str, body: bytes, *, id: str = "injected") -> None:
        """Put raw bytes on a queue, as a publisher in another language may."""
        with self._memory.changed:
            self._memory[queue_name].add(id, body, None, None)
            self._memory.changed.notify_all()

    # -- consume -----------------------------------------------------------------------

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> RelayConsumer:
        """Return a consumer of a queue; it collects batches if the queue has a batch actor."""
        consumer = MemoryConsumer(
            self, self._memory, queue_name, prefetch=prefetch, timeout_ms=timeout
        )
        found = MemoryBatches(consumer, self._memory)
        with self._memory.changed:
            self._consumers.add(found)
        return self._register(found)

    def consumed_queues(self) -> set[str]:
        """Names of the queues whose messages a worker takes."""
        with self._memory.changed:
            return {one.queue_name for one in self._consumers if not one.is_closing}

    # -- join --------------------------------------------------------------------------

    def _wait_until_drained(
        self, queue_name: str, timeout: int | None, interval: float, checks: int
    ) -> None:
        """Wait until the messages of a queue are processed.

        While no job runs and none waits, the clock is moved to the next scheduled message of the
        queue, or to the end of a batch's wait. So retries after hours take no time.

        Args:
            timeout: milliseconds; None: the broker's ``join_timeout``.

        Raises:
            QueueJoinTimeout: messages are left after ``timeout``, or no worker takes them.
        """
        if timeout is None:
            timeout = int(self._join_timeout.total_seconds() * 1000)
        began = time.monotonic()
        changed = self._memory.changed
        with changed:
            while self._memory[queue_name].live:
                waited = time.monotonic() - began
                if waited >= timeout / 1000:
                    raise self._timed_out(queue_name, timeout)
                if waited >= _NO_WORKER_SECONDS and queue_name not in self.consumed_queues():
                    raise self._timed_out(queue_name, timeout, _ADVICE)
                self._fast_forward(queue_name)
                changed.wait(min(_CHECK_SECONDS, timeout / 1000 - waited))

    def _fast_forward(self, queue_name: str) -> None:
        """Move the clock to the next due time of a queue, if no job runs or can run now.

        While a job runs, time passes as usual: otherwise a job that is deferred until another job
        ends would move the clock on and on, and let that job's locks expire.
        """
        consumed = self.consumed_queues()
        for queue in self._memory:
            if any(stored.is_given for stored in queue.in_flight):
                return
            queue.move_due()
            if queue.name in consumed and queue.waiting and not queue.is_paused:
                return
        due = [one[0] / 1000 - self.clock.time() for one in self._memory[queue_name].scheduled[:1]]
        for consumer in self._consumers:
            if consumer.queue_name == queue_name:
                at = consumer.next_batch
                due += [] if at is None else [at - self.clock.monotonic()]
        if due:
            self.clock.move(timedelta(seconds=max(0.0, min(due)) + _MARGIN_SECONDS))

    def _raise_dead(self, queue_name: str, fail_fast: bool) -> None:
        """Raise the exception of the oldest dead-lettered job; DeadLettered if it raised none."""
        with self._memory.changed:
            letters = list(self._memory[queue_name].dead.values())
        if fail_fast and letters and letters[0].cause is not None:
            raise letters[0].cause from None
        super()._raise_dead(queue_name, fail_fast)

    # -- operations ----------------------------------------------------------------------

    def ping(self, queues: Collection[str] | None = None) -> None:
        """Do nothing: there is no server."""

    def drop_waiting(self, queue_name: str) -> int:
        """Delete the waiting and scheduled messages of a queue; return their number."""
        with self._memory.changed:
            count = self._memory[queue_name].purge()
            self._memory.changed.notify_all()
            return count

    @property
    def inspector(self) -> MemoryInspector:
        return MemoryInspector(self, self._memory, self.consumed_queues)

    def close(self) -> None:
        """End the event loop of ``async`` actors; the messages are kept."""
        self.async_runner.stop()
