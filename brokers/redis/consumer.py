"""The consumer of one queue on Redis.

What is finished waits here for a few milliseconds and rides with the next
fetch, in one Lua call (``exchange.lua``). While this thread sleeps for lack of
work, the worker thread that finishes a message sends it at once.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Event, Lock
from typing import TYPE_CHECKING

from dramatiq import MessageProxy

from ...core.errors import FormrelayError
from ...core.failure import Failure, Reason
from ...core.outcomes import Dead
from ...core.retry import Exponential, RetryPolicy
from ...middleware.delivery import Batch, Delivery
from ..consumer import RelayConsumer
from ..errors import BrokerRefused, BrokerUnavailable
from ..settlement import Settlement, settled_tags, settlement_of

if TYPE_CHECKING:
    from .broker import RedisBroker

logger = logging.getLogger("formrelay.brokers")

#: How soon to try again when Redis does not answer: soon at first, never in a tight loop.
_RECONNECT = RetryPolicy(
    backoff=Exponential(base=timedelta(milliseconds=100), cap=timedelta(seconds=5))
)


class CrashLoop(FormrelayError):
    """Every worker that tried the message died."""


@dataclass(slots=True)
class _Outbox:
    """What waits to be sent with the next exchange."""

    settlement: Settlement = field(default_factory=Settlement)
    put_back: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.settlement) or bool(self.put_back)


class RedisConsumer(RelayConsumer):
    """See the module. One a queue and process; ``receive`` is called by one thread."""

    broker: RedisBroker

    def __init__(
        self, broker: RedisBroker, queue_name: str, *, prefetch: int, timeout_ms: int
    ) -> None:
        super().__init__(broker, queue_name, prefetch=prefetch, timeout_ms=timeout_ms)
        self._buffer: deque[Delivery] = deque()
        self._suspects: deque[Delivery] = deque()
        self._suspect_in_hand = False
        self._in_hand = 0  # yielded and not yet settled, in messages
        self._lock = Lock()  # guards what follows, and _in_hand
        self._outbox = _Outbox()
        self._settled = Event()
        self._asleep = False  # or closed: nobody but the worker threads sends
        self._held: set[str] = set()  # ids that Redis has in flight for us, as far as we know
        self._failures = 0
        self._recover_at = 0.0

    # -- receive ---------------------------------------------------------------------

    def receive(self, timeout: float) -> Delivery | None:
        clock = self.broker.clock
        deadline = clock.monotonic() + timeout
        while True:
            delivery = self._next()
            if delivery is not None:
                return delivery
            try:
                if self._failures:
                    self._reclaim()
                wait = self._exchange(self._room())
                self._recover()
                self._failures = 0
            except BrokerUnavailable as error:
                # The messages in hand are still ours, so this consumer lives on: Dramatiq
                # would throw it away, and with it what is settled and not yet sent.
                self._unreachable(error, deadline - clock.monotonic())
                return None
            if self._buffer or self._suspects:
                continue
            remaining = deadline - clock.monotonic()
            if remaining <= 0:
                return None
            self._sleep(remaining if wait < 0 else min(remaining, wait / 1000))

    def _next(self) -> Delivery | None:
        if self._suspects and not self._suspect_in_hand:
            # One at a time: were several running when the worker dies, the innocent
            # would be counted with the guilty.
            self._suspect_in_hand = True
            delivery = self._suspects.popleft()
        elif self._buffer:
            delivery = self._buffer.popleft()
        else:
            return None
        with self._lock:
            self._in_hand += _size(delivery)
        return delivery

    def _room(self) -> int:
        return max(0, self.prefetch - self._in_hand - len(self._buffer) - len(self._suspects))

    def _sleep(self, seconds: float) -> None:
        """Until there may be something to do, at most ``seconds``."""
        if self._room() == 0:
            self._settled.wait(seconds)
            self._settled.clear()
            return
        with self._lock:
            if self._outbox:
                return
            self._asleep = True
        try:
            self.broker.wait_for_work(self.queue_name, seconds)
        except BrokerUnavailable as error:
            self._unreachable(error, seconds)
        finally:
            self._asleep = False

    def _unreachable(self, error: BrokerUnavailable, at_most: float) -> None:
        self._failures += 1
        wait = _RECONNECT.wait_before(self._failures + 1).total_seconds()
        logger.error(
            "the broker cannot be reached",
            extra={
                "queue": self.queue_name,
                "error_message": str(error),
                "retry_in_s": round(wait, 3),
            },
        )
        Event().wait(max(0.0, min(wait, at_most)))

    # -- exchange --------------------------------------------------------------------

    def _exchange(self, room: int) -> int:
        """Send what waits, take at most ``room``; returns ms until the next due, -1 for none."""
        with self._lock:
            outbox, self._outbox = self._outbox, _Outbox()
        try:
            wait, fetched = self.broker.exchange(
                self.queue_name, room, outbox.settlement, outbox.put_back
            )
        except (BrokerUnavailable, BrokerRefused):
            with self._lock:
                outbox.settlement.add(self._outbox.settlement)
                self._outbox = _Outbox(outbox.settlement, outbox.put_back + self._outbox.put_back)
            raise
        self._held.difference_update(settled_tags(outbox.settlement), outbox.put_back)
        for id, body, suspected in fetched:
            self._held.add(id)
            self._take(id, body, suspected)
        return wait

    def _reclaim(self) -> None:
        """Hand back what was fetched for us in an answer that never came.

        Nobody else would: they are in a live worker's set.
        """
        lost = self.broker.in_flight(self.queue_name) - self._held
        with self._lock:
            self._outbox.put_back += lost

    def _take(self, id: str, body: bytes | None, suspected: int) -> None:
        if body is None:  # flushed, or done by somebody else, since its id was queued
            self._send_later(Settlement(remove=[id]))
            return
        delivery = self.decoded(body, id, id)
        if isinstance(delivery, Settlement):
            self._send_later(delivery)
        elif not suspected:
            self._buffer.append(delivery)
        elif suspected >= self.broker.options.max_crash_deliveries:
            self._send_later(self._crash_loop(delivery, suspected))
        else:
            delivery.before_trial = lambda: self.broker.count_trial(self.queue_name, id)
            self._suspects.append(delivery)

    def _crash_loop(self, delivery: Delivery, deaths: int) -> Settlement:
        error = CrashLoop(f"{deaths} workers died while they held this message")
        now = self.broker.clock.time()
        failure = Failure.of(error, reason=Reason.CRASH_LOOP, attempt=delivery.attempt, now=now)
        logger.error(
            "dead-lettered a message whose workers died",
            extra={"queue": self.queue_name, "message_id": delivery.message_id, "deaths": deaths},
        )
        return settlement_of(delivery, Dead(failure), now)

    def _recover(self) -> None:
        now = self.broker.clock.monotonic()
        if now >= self._recover_at:
            # Three looks a time-out: a dead worker's messages are back within a third more.
            self._recover_at = now + self.broker.options.heartbeat_timeout.total_seconds() / 3
            count = self.broker.recover(self.queue_name)
            if count:
                logger.warning(
                    "took over the messages of dead workers",
                    extra={"queue": self.queue_name, "count": count},
                )

    # -- settle ------------------------------------------------------------------------

    def carry_out(self, settlement: Settlement, delivery: Delivery) -> None:
        with self._lock:
            self._in_hand -= _size(delivery)
            if delivery.before_trial is not None:
                self._suspect_in_hand = False
            self._outbox.settlement.add(settlement)
            send_now = self._asleep
        self._settled.set()
        if send_now:
            # A connection lost here is the receiving thread's to report; what was to be
            # sent is kept for it.
            with contextlib.suppress(BrokerUnavailable):
                self._exchange(0)

    def _send_later(self, settlement: Settlement) -> None:
        with self._lock:
            self._outbox.settlement.add(settlement)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        ids = [message.tag for message in messages if isinstance(message, Delivery)]
        with self._lock:
            self._in_hand -= len(ids)
            self._outbox.put_back += ids
        if ids:
            self._exchange(0)

    def close(self) -> None:
        """Hand back what was fetched and not started, send what is settled, sign off."""
        unstarted = [*self._suspects, *self._buffer]
        self._suspects.clear()
        self._buffer.clear()
        with self._lock:
            self._outbox.put_back += [delivery.tag for delivery in unstarted]
            # A paused worker finishes what it has begun after its consumer was closed.
            self._asleep = True
        try:
            self._exchange(0)
            self.broker.leave(self.queue_name)
        except (BrokerUnavailable, BrokerRefused) as error:
            # Recovery will find them; what was done and could not be said is done again.
            logger.error(
                "could not hand back what was in flight",
                extra={"queue": self.queue_name, "error_message": str(error)},
            )


def _size(delivery: Delivery) -> int:
    return len(delivery.parts) if isinstance(delivery, Batch) and not delivery.was_stored else 1
