"""The subscription of one connection to one queue: its prefetch, and the messages in flight.

A consumer's prefetch cannot be changed, and quorum queues ignore the prefetch of a channel. So
when jobs turn out to be short, the consumer is cancelled and replaced by a consumer with a larger
prefetch; when jobs become long, by a consumer with the usual prefetch. There is never more than one
consumer: a quorum queue sends several messages to each consumer in turn, so the order would be
lost.

Each consumer has a tag of its own: RabbitMQ 3.10 closes a connection that uses a tag again while
messages of the earlier consumer are in flight.

Worker threads (or the async runner) append the delivery tags that they have settled to a deque,
without a lock. The receiving thread of the consumer empties the deque in each pass, and is woken
if it sleeps.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from dataclasses import dataclass, field

from pika import spec

from ...core.compute_turns import TURNS
from . import codec
from .connection import Connection

#: Consumer tags.
WORK_TAG, QUARANTINE_TAG = "work", "quarantine"
#: A rate in messages per second, and the number that is added to the prefetch at that rate and
#: above (30 to 100 ms of work).
_LEVELS = ((0, 0), (1_000, 64), (4_000, 400))
#: The largest prefetch that AMQP can express.
MAX_PREFETCH = 65_535
#: Maximum seconds to wait until the consumer to be replaced has its whole prefetch. Then no message
#: is on its way to it, which a message for the next consumer could overtake.
_FULL_WITHIN = 0.02
#: Seconds until the next attempt to replace the consumer.
_RETRY_AFTER = 1.0
#: Seconds for which acknowledgements are gathered while jobs are short.
_GATHER_SECONDS = 0.002
#: Number of acknowledgements that may wait for the delivery tags between them.
_MAX_WAITING = 64


@dataclass(slots=True)
class Acks:
    """The requeues and acknowledgements of a connection; acknowledgements are combined.

    Attributes:
        lowest: every delivery up to this tag is acknowledged.
    """

    lowest: int = 0
    _waiting: set[int] = field(default_factory=set)
    _sent: set[int] = field(default_factory=set)
    _requeued: list[int] = field(default_factory=list)

    def add(self, delivery_tag: int) -> None:
        self._waiting.add(delivery_tag)

    def requeue(self, delivery_tag: int) -> None:
        self._requeued.append(delivery_tag)
        self._sent.add(delivery_tag)

    def sent_after(self, delivery_tag: int) -> int:
        """Number of deliveries after this tag that are settled on RabbitMQ."""
        start = max(delivery_tag, self.lowest)
        return start - delivery_tag + sum(sent > start for sent in self._sent)

    def frames(self, *, all: bool) -> bytes:
        """Return the frames to send now.

        Args:
            all: also acknowledge deliveries that wait for the tags before them.
        """
        waiting, sent = self._waiting, self._sent
        frames = b""
        if self._requeued:
            # First: an acknowledgement of several tags would acknowledge these messages too.
            frames = b"".join(map(codec.requeue, self._requeued))
            self._requeued.clear()
        if not waiting:
            return frames
        lowest, last = self.lowest, 0
        while True:
            following = lowest + 1
            if following in waiting:
                waiting.remove(following)
                last = following  # RabbitMQ refuses a tag that is settled already
            elif following in sent:
                sent.remove(following)
            else:
                break
            lowest = following
        self.lowest = lowest
        if last:
            frames += codec.acknowledge(last, multiple=True)
        if waiting and (all or len(waiting) > _MAX_WAITING):
            frames += b"".join(map(codec.acknowledge, sorted(waiting)))
            sent |= waiting
            waiting.clear()
        return frames


class Subscription:
    """The subscription of one connection to one queue. Used by the receiving thread alone.

    Attributes:
        prefetch: takes effect at the next :meth:`start`.
        is_started: whether the queue is consumed.
        has_quarantine: whether the quarantine queue is consumed as well.
    """

    def __init__(self, connection: Connection, queue: str, *, prefetch: int) -> None:
        self.connection = connection
        self.prefetch = prefetch
        self.is_started = False
        self.has_quarantine = False
        self._queue = queue
        self._acks = Acks()
        self._level = 0
        self._count = 0
        self._adjust_at = 0.0

    def start(self) -> None:
        """Consume the queue."""
        self._start(0)
        self.is_started = True

    def _start(self, level: int) -> None:
        self._count += 1
        self._tag = f"{WORK_TAG}-{self._count}"
        self._consumer_prefetch = min(self.prefetch + _LEVELS[level][1], MAX_PREFETCH)
        self._delivered_before = self.connection.delivered
        self._level = level
        self.connection.consume(self._queue, self._tag, self._consumer_prefetch)

    def subscribe_quarantine(self, queue: str) -> None:
        """Consume the quarantine queue of this process too, with no prefetch limit."""
        self.connection.consume(queue, QUARANTINE_TAG, 0)
        self.has_quarantine = True

    def adjust_prefetch(self, rate: float) -> None:
        """Replace the consumer if another prefetch fits the rate (messages per second)."""
        level = self._level
        if level + 1 < len(_LEVELS) and rate > _LEVELS[level + 1][0]:
            level += 1
        elif rate < _LEVELS[level][0] / 2:
            level -= 1
        if not self.is_started or level == self._level or self.has_quarantine:
            return
        if time.monotonic() < self._adjust_at:
            return
        # After a rate of 0 no message is most likely on its way.
        is_idle = rate == 0 and self._unsettled() == 0
        if is_idle or self._is_full(_FULL_WITHIN if level > self._level else 0):
            self._cancel()
            self._start(level)
        else:
            self._adjust_at = time.monotonic() + _RETRY_AFTER

    def _is_full(self, seconds: float) -> bool:
        """Whether the consumer has its whole prefetch; waits for it up to ``seconds``."""
        deadline = time.monotonic() + seconds
        while self._unsettled() < self._consumer_prefetch:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.connection.read(left)
        return True

    def _unsettled(self) -> int:
        """Number of messages that the consumer has, as RabbitMQ counts them."""
        before = self._delivered_before
        return self.connection.delivered - before - self._acks.sent_after(before)

    @property
    def is_busy(self) -> bool:
        """Whether jobs are short and many."""
        return self._level > 0

    def _cancel(self) -> None:
        self.connection.call(spec.Basic.Cancel(consumer_tag=self._tag))

    def acknowledge(self, delivery_tag: int) -> None:
        """Acknowledge a delivery with the next :meth:`flush`."""
        self._acks.add(delivery_tag)

    def requeue(self, delivery_tag: int) -> None:
        """Requeue a delivery with the next :meth:`flush`."""
        self._acks.requeue(delivery_tag)

    def flush(self, *, all: bool) -> None:
        """Send the requeues and acknowledgements.

        Args:
            all: also acknowledge deliveries that wait for the tags before them.
        """
        if data := self._acks.frames(all=all):
            self.connection.send(data)

    def synchronise(self) -> None:
        """Send all acknowledgements and wait until RabbitMQ has processed them."""
        self.flush(all=True)
        self.connection.fence()

    def stop(self) -> None:
        """Stop consuming the queue and requeue the messages that no worker thread has."""
        self.flush(all=True)
        if self.is_started:
            self._cancel()  # RabbitMQ answers after the queue has the acknowledgements
            self.is_started = False
        for content in self.connection.contents:
            self.requeue(content.delivery_tag)
        self.connection.contents.clear()
        self.flush(all=True)


class Tag:
    """A delivery tag, with the subscription in which it is valid.

    Every method may be called by any thread.

    Attributes:
        awaits_quarantine_run: the message is a suspect whose quarantine run is not counted yet.
    """

    __slots__ = ("awaits_quarantine_run", "delivery_tag", "subscription", "unacked")

    def __init__(self, unacked: Unacked, subscription: Subscription, delivery_tag: int) -> None:
        self.unacked = unacked
        self.subscription = subscription
        self.delivery_tag = delivery_tag
        self.awaits_quarantine_run = False

    @property
    def is_live(self) -> bool:
        """Whether its connection is still open; if not, RabbitMQ redelivers the message."""
        return self.subscription.connection.is_open

    def acknowledge(self) -> None:
        """Acknowledge the message."""
        self.unacked._release(self, self.delivery_tag)

    def keep(self) -> None:
        """Leave the message unacknowledged, though no thread works on it any more."""
        self.unacked._release(self, 0)

    def requeue(self, at: float = 0.0) -> None:
        """Put the message back on its queue.

        Args:
            at: monotonic seconds before which the message stays unacknowledged.
        """
        self.unacked._release(self, -self.delivery_tag, at)

    def replace(self, delivery_tag: int) -> None:
        """Refer to another delivery of the same message, the counted copy of a suspect."""
        self.delivery_tag = delivery_tag
        self.awaits_quarantine_run = False


class Unacked:
    """The messages of one consumer that worker threads have, and the tags that they released.

    Attributes:
        count: number of messages that worker threads have, as of the last :meth:`collect`.
        released: number of tags released since the start.
        final_run: the tag of a final quarantine run, during which no other message is delivered.
        wakes: becomes readable when a sleeping receiving thread has tags to collect.
    """

    def __init__(self) -> None:
        self.count = 0
        self.released = 0
        self.final_run: Tag | None = None
        self._is_asleep = False
        #: The tag, its delivery tag when it was released (negative: requeue; 0: keep), and the
        #: monotonic seconds before which it is not requeued.
        self._released: deque[tuple[Tag, int, float]] = deque()
        #: The messages to requeue later; used by the receiving thread alone.
        self._to_requeue: list[tuple[float, Subscription, int]] = []
        self.wakes, self._waker = socket.socketpair()
        self.wakes.setblocking(False)
        self._waker.setblocking(False)

    def _release(self, tag: Tag, number: int, at: float = 0.0) -> None:
        self._released.append((tag, number, at))
        if self._is_asleep:
            self._is_asleep = False  # it has to be woken only once
            with contextlib.suppress(OSError):
                self._waker.send(b"!")

    def collect(self) -> None:
        """Acknowledge or requeue the released tags; called by the receiving thread.

        Tags of lost connections have no effect.
        """
        released = self._released
        while released:
            tag, number, at = released.popleft()
            self.count -= 1
            self.released += 1
            if tag is self.final_run:
                self.final_run = None
            if number > 0:
                tag.subscription.acknowledge(number)
            elif number < 0 and at:
                self._to_requeue.append((at, tag.subscription, -number))
            elif number < 0:
                tag.subscription.requeue(-number)

    def next_due(self) -> float | None:
        """When to call :meth:`requeue_due`, monotonic seconds; None if not at all."""
        return min((at for at, _, _ in self._to_requeue), default=None)

    def requeue_due(self, now: float) -> None:
        """Requeue the messages that were to stay unacknowledged until ``now``."""
        if not self._to_requeue:
            return
        for at, subscription, number in self._to_requeue:
            if at <= now:
                subscription.requeue(number)
        self._to_requeue = [one for one in self._to_requeue if one[0] > now]

    def sleep(self, subscription: Subscription, seconds: float) -> None:
        """Wait until the server sends something or a tag is released, at most ``seconds``."""
        if subscription.is_busy and self.count:
            # With thousands of messages a second, being woken for each message costs more time
            # than the message itself.
            if not TURNS.wait(min(seconds, _GATHER_SECONDS)):
                subscription.connection.read(min(seconds, _GATHER_SECONDS))
            return
        TURNS.end()
        self._is_asleep = True
        try:
            # A tag that was released just before the flag was set does not wake this thread.
            subscription.connection.read(0 if self._released else seconds)
        finally:
            self._is_asleep = False

    def close(self) -> None:
        """Close the wake-up sockets; tags that are released later have no effect.

        RabbitMQ redelivers the messages that are left, so this process has none any more.
        """
        self.count = 0
        self.wakes.close()
        self._waker.close()


#: About how many bytes of messages may be fetched and not yet settled.
MAX_BYTES = 32 * 1024 * 1024
#: Prefetch until the size of messages is known.
_FIRST_PREFETCH = 200
#: The number of recent messages that the mean size follows.
_MEAN_OF = 32


class MeanSize:
    """Mean size of the messages of a queue, to limit the prefetch by bytes.

    RabbitMQ's prefetch counts messages, not bytes.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = 0.0
        self._max_prefetch = _FIRST_PREFETCH

    def add(self, size: int) -> None:
        """Count a received message of ``size`` bytes."""
        self._count += 1
        self._mean += (size - self._mean) / min(self._count, _MEAN_OF)

    @property
    def max_prefetch(self) -> int:
        """The number of messages that fit into :data:`MAX_BYTES`.

        Ignores small changes: a new prefetch needs a new consumer.
        """
        if self._count >= _MEAN_OF:
            fit = int(MAX_BYTES / max(1.0, self._mean)) or 1
            if not self._max_prefetch / 2 < fit < self._max_prefetch * 4:
                self._max_prefetch = fit
        return self._max_prefetch
