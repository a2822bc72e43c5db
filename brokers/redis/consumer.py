"""The consumer of one queue on Redis.

One Lua call (``exchange.lua``) sends settlements and fetches messages. Settlements wait a moment
for the next call; while the consumer thread is blocked, worker threads send them at once.

Threads: Dramatiq's consumer thread calls ``receive``. Dramatiq's worker threads and the async
runner call ``apply``, which takes no lock on the hot path: contention there would cost more than
all other steps.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from threading import Event

from dramatiq import MessageProxy

from ...core.compute_turns import TURNS
from ...middleware.delivery import Batch, Delivery
from ..base import RelayBroker
from ..consumer import RelayConsumer, parts_of
from ..errors import BrokerRefused, BrokerUnavailable
from ..retrying import Reconnect
from ..settlement import Settlement
from .commands import QueueCommands
from .in_flight import InFlight, Pending

logger = logging.getLogger("formrelay.brokers")

#: Seconds of work to prefetch. Short jobs are prefetched so that no worker thread waits for a
#: round trip; long jobs are not, so that other processes can fetch them.
_PREFETCH_SECONDS = 0.06
_MAX_PREFETCH = 1_000
# An exchange has a fixed cost. So while enough messages are prefetched, the consumer waits for more
# settlements to send.
#: Minimum seconds between two exchanges, on queues of ``async`` actors.
_EXCHANGE_INTERVAL = 0.005
#: Maximum seconds of the wait for settlements, on other queues.
_LINGER_SECONDS = 0.02
#: Bytes in flight above which the consumer fetches nothing.
_MAX_BYTES_IN_FLIGHT = 32 * 1024 * 1024


class RedisConsumer(RelayConsumer):
    """The consumer of one queue; a process has at most one for each queue.

    Args:
        in_flight: the messages in flight, which outlive this consumer.
        fixed_prefetch: whether to prefetch by ``prefetch`` alone, not by the rate of messages.
        coalesces: whether messages are collected into batches.
        max_long_runs: maximum number of long-running async attempts that do not count against
            the prefetch limit; None for a queue without ``async`` actors.
    """

    def __init__(
        self,
        broker: RelayBroker,
        commands: QueueCommands,
        in_flight: InFlight,
        queue_name: str,
        *,
        prefetch: int,
        timeout_ms: int,
        fixed_prefetch: bool = False,
        coalesces: bool = False,
        max_long_runs: int | None = None,
    ) -> None:
        super().__init__(broker, queue_name, prefetch=prefetch, timeout_ms=timeout_ms)
        self._commands = commands
        self._in_flight = in_flight
        self._fixed_prefetch = fixed_prefetch
        self._coalesces = coalesces
        self._max_long_runs = max_long_runs
        # Used by the consumer thread only:
        self._buffer: deque[Delivery] = deque()
        self._suspects: deque[Delivery] = deque()
        self._rate = 0.0  # settled messages a second, smoothed
        self._measured_at, self._measured = 0.0, self._in_flight.settled_count
        self._reconnect = Reconnect(queue_name, broker.clock)
        #: Whether Redis may have messages in flight for this worker that it never received.
        self._must_reconcile = True
        self._recover_at = 0.0
        self._exchanged_at = broker.clock.monotonic()
        # Read by worker threads:
        #: The number of settlements that the consumer thread waits for, 0 if it does not wait.
        self._awaited = 0
        self._awaited_are_there = Event()
        #: The consumer thread is blocked in Redis or has ended: worker threads send settlements.
        self._is_blocked = False

    # -- receive ---------------------------------------------------------------------

    def receive(self, timeout: float) -> Delivery | None:
        clock = self.broker.clock
        deadline = clock.monotonic() + timeout
        while True:
            delivery = self._next()
            if delivery is not None:
                return delivery
            if self._is_ending:
                self._return_prefetched()
            self._linger()
            try:
                self._reconcile()
                self._commands.refresh_name()
                wait = self._exchange(fetch=True)
                self._recover()
                self._reconnect.succeeded()
            except (BrokerUnavailable, BrokerRefused) as error:
                # An error raised to Dramatiq would end this consumer, which still has messages
                # in flight and settlements to send.
                self._failed(error, deadline - clock.monotonic())
                return None
            if self._may_deliver() and (
                self._buffer or (self._suspects and not self._in_flight.suspect_is_running)
            ):
                continue
            remaining = deadline - clock.monotonic()
            if remaining <= 0:
                return None
            self._sleep(remaining if wait < 0 else min(remaining, wait / 1000))

    @property
    def _is_ending(self) -> bool:
        return self.broker.is_draining or self.is_closing

    def _may_deliver(self) -> bool:
        """Whether Dramatiq may get a message now."""
        if self._is_ending:
            return False  # receive() requeues the prefetched messages
        sink_limit = self.sink_limit()
        return sink_limit is None or sink_limit > self._in_flight.unsettled

    def _next(self) -> Delivery | None:
        if not self._may_deliver():
            return None
        if self._suspects and not self._in_flight.suspect_is_running:
            # Suspects run one at a time, so that a death counts against one message only.
            self._in_flight.suspect_is_running = True
            delivery = self._suspects.popleft()
        elif self._buffer:
            delivery = self._buffer.popleft()
        else:
            return None
        self._in_flight.delivered_count += delivery.size
        return delivery

    def receive_buffered(self) -> Iterable[Delivery]:
        if self.sink_limit() is not None or not self._may_deliver():
            return ()
        buffered, self._buffer = self._buffer, deque()
        # Batches in the buffer were stored as one message, and count as one.
        self._in_flight.delivered_count += len(buffered)
        return buffered

    def _fetch_limit(self, pending: Pending | None = None) -> int:
        """Return the number of messages to fetch once ``pending`` is settled."""
        pending = pending or Pending()
        if self._is_ending:
            return 0
        if self._in_flight.bytes - pending.bytes > _MAX_BYTES_IN_FLIGHT:
            return 0
        if len(self._in_flight.refused) >= _MAX_PREFETCH:
            return 0
        unsettled = self._in_flight.unsettled - pending.size
        sink_limit = self.sink_limit()
        if sink_limit is not None:
            return max(0, sink_limit - unsettled - len(self._buffer) - len(self._suspects))
        if self._max_long_runs:
            unsettled -= min(self._max_long_runs, self.broker.async_runner.long(self.queue_name))
        return max(0, self._prefetch_limit() - unsettled - len(self._buffer) - len(self._suspects))

    def _linger(self) -> None:
        """Wait a moment for settlements to send, while enough messages are prefetched."""
        limit = self._prefetch_limit()
        if self._max_long_runs is None:
            # Suspects, and messages that test a sink, run one at a time: the next message needs
            # the settlement of the last at once.
            if self._fixed_prefetch or self._suspects or self.sink_limit() is not None:
                return
            if self._fetch_limit() == 0:
                # Three quarters of the messages remain, enough for all worker threads.
                self._wait_for_settlements(max(1, limit // 4), _LINGER_SECONDS)
            return
        if limit < 2 * self.prefetch or self._fetch_limit() > limit // 2:
            return
        since = self.broker.clock.monotonic() - self._exchanged_at
        if since < _EXCHANGE_INTERVAL and not TURNS.wait(_EXCHANGE_INTERVAL - since):
            Event().wait(_EXCHANGE_INTERVAL - since)

    def _prefetch_limit(self) -> int:
        """Maximum number of messages in this process: prefetched and running."""
        if self._fixed_prefetch:
            return self.prefetch * self.batch_scale()
        now = self.broker.clock.monotonic()
        elapsed = now - self._measured_at
        if elapsed > 0.02:
            settled = self._in_flight.settled_count
            self._rate = (self._rate + (settled - self._measured) / elapsed) / 2
            self._measured, self._measured_at = settled, now
        return max(self.prefetch, min(_MAX_PREFETCH, int(self._rate * _PREFETCH_SECONDS)))

    def _sleep(self, seconds: float) -> None:
        """Block until there may be something to do, at most ``seconds``."""
        if self._fetch_limit() == 0 or self._suspects:
            self._wait_for_settlements(1, seconds)
            return
        self._is_blocked = True
        TURNS.end()
        try:
            # Settlements that came before the flag was set are sent first.
            if not self._in_flight.settlements:
                self._commands.wait_for_work(self.queue_name, seconds)
        except (BrokerUnavailable, BrokerRefused) as error:
            self._failed(error, seconds)
        finally:
            self._is_blocked = False

    def _wait_for_settlements(self, count: int, seconds: float) -> None:
        """Wait for ``count`` settlements to send, at most ``seconds``."""
        settlements = self._in_flight.settlements
        until = time.monotonic() + seconds
        while TURNS.wait(min(seconds, _LINGER_SECONDS), lambda: len(settlements) >= count):
            # The turn may also come because the jobs are no longer short.
            seconds = until - time.monotonic()
            if seconds <= 0 or len(settlements) >= count:
                return
        self._awaited_are_there.clear()
        self._awaited = count
        # Settlements that came before the count was set did not set the event.
        if len(self._in_flight.settlements) < count:
            self._awaited_are_there.wait(seconds)
        self._awaited = 0

    def _failed(self, error: BrokerUnavailable | BrokerRefused, at_most: float) -> None:
        self._must_reconcile = True
        self._reconnect.failed(error)
        TURNS.end()
        Event().wait(max(0.0, min(self._reconnect.seconds, at_most)))

    # -- exchange --------------------------------------------------------------------

    def _exchange(self, *, fetch: bool, is_last: bool = False) -> int:
        """Send the settlements, and fetch messages up to the limit that remains.

        Args:
            is_last: also retry refused messages that are not due yet.

        Returns:
            Milliseconds until the next scheduled message is due; -1 without any.
        """
        with self._in_flight.sending:
            wait, fetched = self._in_flight.exchange(
                self._fetch_limit if fetch else lambda _: 0, is_last=is_last
            )
            for message in fetched:
                self._add_fetched(*message)
        self._exchanged_at = self.broker.clock.monotonic()
        return wait

    def _add_fetched(self, id: bytes, body: bytes, deaths: int) -> None:
        delivery = self.decoded(body, id, id.decode(errors="backslashreplace"))
        if isinstance(delivery, Settlement):
            self._in_flight.pending.settlement.add(delivery)
            return
        self._in_flight.bytes += len(body)
        delivery.is_redelivered |= deaths > 0
        if not deaths:
            self._buffer.append(delivery)
        elif deaths >= self.broker.options.max_crash_deliveries:
            self._in_flight.bytes -= len(body)
            self._in_flight.pending.settlement.add(self.crash_loop(delivery, deaths))
        else:
            delivery.count_quarantine_run = lambda: self._commands.count_death(self.queue_name, id)
            # The parts of a batch whose worker died are thousands of suspects. They run as a
            # batch once more; each runs alone only if that batch kills its worker as well.
            delivery.alone = deaths > 1 or not self._coalesces
            (self._suspects if delivery.alone else self._buffer).append(delivery)

    def _reconcile(self) -> None:
        """After an error or a long pause, compare the messages in flight here and in Redis.

        A lost answer may have put messages in flight for this worker that it never received.
        Since the worker is alive, no other worker recovers them; they are requeued here.

        After a pause longer than the heartbeat time-out, other workers have taken over the
        messages of this worker. It forgets the messages that it has not started.
        """
        silence = self.broker.clock.monotonic() - self._exchanged_at
        was_silent = silence > self.broker.options.heartbeat_timeout.total_seconds()
        if was_silent:
            self._must_reconcile = True
            with self._in_flight.sending:
                self._in_flight.forget([delivery.tag for delivery in self._take_prefetched()])
        if self._must_reconcile:
            in_flight = self._commands.in_flight(self.queue_name)
            with self._in_flight.sending:
                known = self._in_flight.tags.keys() | self._in_flight.pending.requeued
                self._in_flight.pending.requeued += in_flight - known
                lost = self._in_flight.newly_lost(in_flight) if was_silent else []
            if lost:
                # The workers that took them over counted a death against each message.
                self._commands.uncount_death(self.queue_name, lost)
            self._must_reconcile = False

    def _take_prefetched(self) -> list[Delivery]:
        """Remove and return the messages that were fetched and not given to Dramatiq."""
        prefetched = [*self._suspects, *self._buffer]
        self._suspects.clear()
        self._buffer.clear()
        self._in_flight.bytes -= sum(delivery.raw_size for delivery in prefetched)
        return prefetched

    def _return_prefetched(self) -> None:
        """Requeue with the next exchange what :meth:`_take_prefetched` returns."""
        with self._in_flight.sending:
            prefetched = self._take_prefetched()
            self._in_flight.pending.requeued += [delivery.tag for delivery in prefetched]

    def _recover(self) -> None:
        now = self.broker.clock.monotonic()
        if now >= self._recover_at:
            # Messages of a dead worker are recovered within 4/3 of the heartbeat time-out.
            self._recover_at = now + self.broker.options.heartbeat_timeout.total_seconds() / 3
            count, in_flight = self._commands.recover(self.queue_name)
            # Redis may run a call that timed out here after the last reconciliation.
            self._must_reconcile |= in_flight > len(self._in_flight.tags)
            if count:
                logger.warning(
                    "recovered messages from dead workers",
                    extra={"queue": self.queue_name, "count": count},
                )

    @property
    def problem(self) -> str | None:
        return self._reconnect.problem

    # -- settle ------------------------------------------------------------------------

    def settles_at_once(self, delivery: Delivery) -> bool:
        return not self._is_blocked

    def apply(self, settlement: Settlement, delivery: Delivery) -> None:
        if delivery.awaits_quarantine_run and settlement.due is not None:
            if isinstance(delivery, Batch) and not delivery.was_stored:
                # Stored as one batch, its parts would no longer be suspects.
                self.requeue(delivery.parts)
                return
            settlement.replacements = [
                replace(replacement, stays_suspect=True) for replacement in settlement.replacements
            ]
        self._in_flight.settlements.append((settlement, delivery))
        if delivery.alone:
            self._in_flight.suspect_is_running = False
        if self._is_blocked:
            self._flush()
        elif 0 < self._awaited <= len(self._in_flight.settlements):
            self._awaited_are_there.set()

    def _flush(self) -> None:
        # The consumer thread reports errors; the settlements stay pending until it sends them.
        with contextlib.suppress(BrokerUnavailable, BrokerRefused):
            self._exchange(fetch=False)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        with self._in_flight.sending:
            for message in parts_of(messages):
                assert isinstance(message, Delivery)
                if self._in_flight.is_current(message.tag):
                    self._in_flight.pending.requeued.append(message.tag)
                self._in_flight.pending.size += 1
                self._in_flight.pending.bytes += message.raw_size
                if message.alone:
                    self._in_flight.suspect_is_running = False
        self._flush()

    def close(self) -> None:
        """Requeue the prefetched messages, send the settlements, unregister from the queue."""
        self.finish()
        self._return_prefetched()
        # A paused worker finishes its running messages after its consumer was closed.
        self._is_blocked = True
        try:
            self._exchange(fetch=False, is_last=True)
            if self.broker.is_stopping and self._in_flight.refused:
                # Left in flight, they would count as messages that killed their worker.
                with self._in_flight.sending:
                    self._in_flight.requeue_refused()
                self._exchange(fetch=False)
            self._commands.leave(self.queue_name)
        except (BrokerUnavailable, BrokerRefused) as error:
            # Another worker recovers the messages; messages that are done run again.
            logger.error(
                "could not requeue the messages in flight",
                extra={"queue": self.queue_name, "error_message": str(error)},
            )
