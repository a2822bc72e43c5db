"""The consumer of one queue on Redis.

What is finished waits here for a moment and rides with the next fetch, in one
Lua call (``exchange.lua``). While this thread sleeps for lack of work, the
worker thread that finishes a message sends it at once.

Threads: Dramatiq's consumer thread calls ``receive``; its worker threads call
``apply``, which takes no lock on the hot path (a lock that is held by the
one and wanted by the other costs more here than everything else together).
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from threading import Event

from dramatiq import MessageProxy

from ...middleware.delivery import Batch, Delivery
from ..base import RelayBroker
from ..consumer import RelayConsumer
from ..errors import BrokerRefused, BrokerUnavailable
from ..reconnecting import Reconnect
from ..settlement import Settlement
from .commands import QueueCommands
from .in_flight import InFlight, Outbox, size_of

logger = logging.getLogger("formrelay.brokers")

#: Short jobs are fetched ahead for so many seconds of work, so that no worker thread waits
#: for a round trip; long ones only as far as Dramatiq asks, so that other processes get some.
_AHEAD_SECONDS = 0.06
_MOST_AHEAD = 1_000
#: While there is work fetched ahead, outcomes gather for so many seconds before the next call:
#: a call costs as much as some messages do, however few it carries.
_GATHER_SECONDS = 0.005
#: Likewise where worker threads settle: until a quarter of what was fetched is done.
_LINGER_SECONDS = 0.02
#: With so many bytes of bodies in hand nothing more is fetched, whatever their number.
_MOST_BYTES = 32 * 1024 * 1024


class RedisConsumer(RelayConsumer):
    """The consumer of one queue; a process has one for a queue at a time."""

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
        most_aside: int = 0,
    ) -> None:
        super().__init__(broker, queue_name, prefetch=prefetch, timeout_ms=timeout_ms)
        self._commands = commands
        self._in_flight = in_flight
        self._fixed_prefetch = fixed_prefetch
        self._coalesces = coalesces
        self._most_aside = most_aside
        # Of the receiving thread alone:
        self._buffer: deque[Delivery] = deque()
        self._suspects: deque[Delivery] = deque()
        self._rate = 0.0  # messages a second, lately
        self._measured_at, self._measured = 0.0, self._in_flight.returned
        self._reconnect = Reconnect(queue_name, broker.clock)
        self._doubtful = True  # Redis may have messages in flight for us that we do not know of
        self._recover_at = 0.0
        self._exchanged_at = broker.clock.monotonic()
        # Flags that worker threads look at:
        self._starved = 0  # the receiving thread waits for _more, which so many outcomes are
        self._asleep = False  # it waits for Redis, or is closed: worker threads send
        self._more = Event()

    # -- receive ---------------------------------------------------------------------

    def receive(self, timeout: float) -> Delivery | None:
        clock = self.broker.clock
        deadline = clock.monotonic() + timeout
        while True:
            delivery = self._next()
            if delivery is not None:
                return delivery
            self._gather()
            try:
                self._reclaim()
                wait = self._exchange(fetch=True)
                self._recover()
                self._reconnect.succeeded()
            except (BrokerUnavailable, BrokerRefused) as error:
                # The messages in hand are still ours, so this consumer lives on: Dramatiq
                # would throw it away, and with it what is settled and not yet sent.
                self._failed(error, deadline - clock.monotonic())
                return None
            if self._may_give() and (
                self._buffer or (self._suspects and not self._in_flight.suspect_is_running)
            ):
                continue
            remaining = deadline - clock.monotonic()
            if remaining <= 0:
                return None
            self._sleep(remaining if wait < 0 else min(remaining, wait / 1000))

    @property
    def _is_ending(self) -> bool:
        return self.broker.is_stopping or self.is_closing

    def _may_give(self) -> bool:
        """Whether anything is to be given out now."""
        if self._is_ending:
            return False  # what is left goes back when this consumer is closed
        sink_limit = self.sink_limit()
        return sink_limit is None or sink_limit > self._in_flight.yielded - self._in_flight.returned

    def _next(self) -> Delivery | None:
        if not self._may_give():
            return None
        if self._suspects and not self._in_flight.suspect_is_running:
            # One at a time: were several running when the worker dies, the innocent
            # would be counted with the guilty.
            self._in_flight.suspect_is_running = True
            delivery = self._suspects.popleft()
        elif self._buffer:
            delivery = self._buffer.popleft()
        else:
            return None
        self._in_flight.yielded += size_of(delivery)
        return delivery

    def receive_buffered(self) -> Iterable[Delivery]:
        if self.sink_limit() is not None or not self._may_give():
            return ()
        rest, self._buffer = self._buffer, deque()
        self._in_flight.yielded += len(rest)  # a batch in it was stored, and counts as one
        return rest

    def _room(self, leaving: Outbox | None = None) -> int:
        """How many messages are to be fetched, when those in ``leaving`` are settled."""
        leaving = leaving or Outbox()
        if self._is_ending:
            return 0
        if self._in_flight.bytes - leaving.bytes > _MOST_BYTES:
            return 0
        if len(self._in_flight.refused) >= _MOST_AHEAD:
            return 0
        unsettled = self._in_flight.yielded - self._in_flight.returned - leaving.size
        sink_limit = self.sink_limit()
        if sink_limit is not None:
            return max(0, sink_limit - unsettled - len(self._buffer) - len(self._suspects))
        if self._most_aside:
            unsettled -= min(self._most_aside, self.broker.unfinished.aside(self.queue_name))
        return max(0, self._window() - unsettled - len(self._buffer) - len(self._suspects))

    def _gather(self) -> None:
        """Let outcomes gather, where there is enough to do meanwhile."""
        window = self._window()
        if not self._most_aside:
            # Three quarters of what was fetched are left, enough for each of the threads. (Not
            # where one at a time is tried: the next one waits for its outcome.)
            if self._fixed_prefetch or self._suspects or self.sink_limit() is not None:
                return
            if self._room() == 0:
                self._wait_for_outcomes(max(1, window // 4), _LINGER_SECONDS)
            return
        if window < 2 * self.prefetch or self._room() > window // 2:
            return
        since = self.broker.clock.monotonic() - self._exchanged_at
        if since < _GATHER_SECONDS:
            Event().wait(_GATHER_SECONDS - since)

    def _window(self) -> int:
        """How many messages may be in this process."""
        if self._fixed_prefetch:
            return self.prefetch * self.batch_scale()
        now = self.broker.clock.monotonic()
        elapsed = now - self._measured_at
        if elapsed > 0.02:
            self._rate = (self._rate + (self._in_flight.returned - self._measured) / elapsed) / 2
            self._measured, self._measured_at = self._in_flight.returned, now
        return max(self.prefetch, min(_MOST_AHEAD, int(self._rate * _AHEAD_SECONDS)))

    def _sleep(self, seconds: float) -> None:
        """Until there may be something to do, at most ``seconds``."""
        if self._room() == 0 or self._suspects:
            self._wait_for_outcomes(1, seconds)
            return
        self._asleep = True
        try:
            if not self._in_flight.settled:  # as above
                self._commands.wait_for_work(self.queue_name, seconds)
        except (BrokerUnavailable, BrokerRefused) as error:
            self._failed(error, seconds)
        finally:
            self._asleep = False

    def _wait_for_outcomes(self, count: int, seconds: float) -> None:
        """Until so many wait to be sent, at most ``seconds``."""
        self._more.clear()
        self._starved = count
        # What was settled just before the flag went up has woken nobody.
        if len(self._in_flight.settled) < count:
            self._more.wait(seconds)
        self._starved = 0

    def _failed(self, error: BrokerUnavailable | BrokerRefused, at_most: float) -> None:
        self._doubtful = True
        self._reconnect.failed(error)
        Event().wait(max(0.0, min(self._reconnect.seconds, at_most)))

    # -- exchange --------------------------------------------------------------------

    def _exchange(self, *, fetch: bool, is_last: bool = False) -> int:
        """Send what waits, and fetch for as much room as that makes.

        Args:
            is_last: also retry refused messages that are not due yet.

        Returns:
            Milliseconds until the next is due, -1 for none.
        """
        with self._in_flight.sending:
            wait, fetched = self._in_flight.exchange(
                self._room if fetch else _no_room, is_last=is_last
            )
            for message in fetched:
                self._take(*message)
        self._exchanged_at = self.broker.clock.monotonic()
        return wait

    def _take(self, id: bytes, body: bytes, suspected: int) -> None:
        delivery = self.decoded(body, id, id.decode(errors="backslashreplace"))
        if isinstance(delivery, Settlement):
            self._in_flight.outbox.settlement.add(delivery)
            return
        self._in_flight.bytes += len(body)
        if not suspected:
            self._buffer.append(delivery)
        elif suspected >= self.broker.options.max_crash_deliveries:
            self._in_flight.bytes -= len(body)
            self._in_flight.outbox.settlement.add(self.crash_loop(delivery, suspected))
        else:
            delivery.before_trial = lambda: self._commands.count_trial(self.queue_name, id)
            # A batch that died with its worker is thousands of suspects: their first trial is
            # one batch again, and only if that kills as well each is tried alone.
            delivery.alone = suspected > 1 or not self._coalesces
            (self._suspects if delivery.alone else self._buffer).append(delivery)

    def _reclaim(self) -> None:
        """After trouble, let go of what is not ours and hand back what we do not know of.

        An answer that was lost has put messages in flight for us that we have
        never seen; as this worker lives, nobody else would look for them. And
        after a silence longer than the heartbeat's time-out, others have taken
        our messages over: those not begun yet are no longer ours to begin.
        """
        silent = self.broker.clock.monotonic() - self._exchanged_at
        was_silent = silent > self.broker.options.heartbeat_timeout.total_seconds()
        if was_silent:
            self._doubtful = True
            with self._in_flight.sending:
                self._in_flight.forget([one.tag for one in self._unstarted()])
        if self._doubtful:
            in_flight = self._commands.in_flight(self.queue_name)
            with self._in_flight.sending:
                known = self._in_flight.tags.keys() | self._in_flight.outbox.put_back
                self._in_flight.outbox.put_back += in_flight - known
                lost = self._in_flight.newly_lost(in_flight) if was_silent else []
            if lost:
                # Others took this worker for dead and counted a death against each message.
                self._commands.pardon(self.queue_name, lost)
            self._doubtful = False

    def _unstarted(self) -> list[Delivery]:
        """Take back what was fetched and not given to Dramatiq."""
        unstarted = [*self._suspects, *self._buffer]
        self._suspects.clear()
        self._buffer.clear()
        self._in_flight.bytes -= sum(delivery.raw_size for delivery in unstarted)
        return unstarted

    def _recover(self) -> None:
        now = self.broker.clock.monotonic()
        if now >= self._recover_at:
            # Three looks a time-out: a dead worker's messages are back within a third more.
            self._recover_at = now + self.broker.options.heartbeat_timeout.total_seconds() / 3
            count, in_flight = self._commands.recover(self.queue_name)
            # A call that we gave up as unanswered may be carried out after the look that followed.
            self._doubtful |= in_flight > len(self._in_flight.tags)
            if count:
                logger.warning(
                    "recovered messages from dead workers",
                    extra={"queue": self.queue_name, "count": count},
                )

    # -- settle ------------------------------------------------------------------------

    def settles_at_once(self, delivery: Delivery) -> bool:
        return not self._asleep

    def apply(self, settlement: Settlement, delivery: Delivery) -> None:
        if delivery.is_untried and settlement.due is not None:
            if isinstance(delivery, Batch) and not delivery.was_stored:
                # Written anew as one batch its parts would be suspected no more.
                self.requeue(delivery.parts)
                return
            settlement.replacements = [
                replace(one, is_untried=True) for one in settlement.replacements
            ]
        self._in_flight.settled.append((settlement, delivery))
        if delivery.alone:
            self._in_flight.suspect_is_running = False
        if self._asleep:
            self._flush()
        elif 0 < self._starved <= len(self._in_flight.settled):
            self._more.set()

    def _flush(self) -> None:
        # Trouble here is the receiving thread's to report; what was to be sent is kept for it.
        with contextlib.suppress(BrokerUnavailable, BrokerRefused):
            self._exchange(fetch=False)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        with self._in_flight.sending:
            for message in messages:
                assert isinstance(message, Delivery)
                if self._in_flight.holds(message.tag):
                    self._in_flight.outbox.put_back.append(message.tag)
                self._in_flight.outbox.size += 1
                self._in_flight.outbox.bytes += message.raw_size
                if message.alone:
                    self._in_flight.suspect_is_running = False
        self._flush()

    def close(self) -> None:
        """Hand back what was fetched and not started, send what is settled, sign off."""
        self.finish()
        with self._in_flight.sending:
            self._in_flight.outbox.put_back += [delivery.tag for delivery in self._unstarted()]
        # A paused worker finishes what it has begun after its consumer was closed.
        self._asleep = True
        try:
            self._exchange(fetch=False, is_last=True)
            if self.broker.is_stopping and self._in_flight.refused:
                # It is run again by whoever gets it; left in flight, it would be taken for the
                # message of a dead worker.
                with self._in_flight.sending:
                    self._in_flight.give_back_refused()
                self._exchange(fetch=False)
            self._commands.leave(self.queue_name)
        except (BrokerUnavailable, BrokerRefused) as error:
            # Recovery will find them; what was done and could not be said is done again.
            logger.error(
                "could not hand back what was in flight",
                extra={"queue": self.queue_name, "error_message": str(error)},
            )


def _no_room(_: Outbox) -> int:
    return 0
