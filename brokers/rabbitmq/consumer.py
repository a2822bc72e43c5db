"""The consumer of one queue on RabbitMQ.

Its connection belongs to Dramatiq's consumer thread, and this object outlives
it: a connection that is lost is replaced here, sooner than Dramatiq would.

Threads: Dramatiq's consumer thread calls ``receive``; its worker threads call
``apply``. They publish what is to be retried or buried (confirmed) on
connections of their own, and leave acknowledgements to the consumer thread
(:mod:`.settling`), which sends all that has gathered as it comes by.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable
from threading import Event, Thread
from uuid import uuid4

from dramatiq import MessageProxy

from ...core.outcomes import Done
from ...middleware.delivery import Delivery
from ..base import RelayBroker
from ..consumer import RelayConsumer
from ..errors import BrokerRefused, BrokerUnavailable
from ..reconnecting import Reconnect
from ..settlement import Settlement, settled_tags
from . import codec
from .client import RabbitClient
from .crash_loops import Quarantine, Suspect
from .pauses import PauseWatch
from .settling import Settler, Tag, Unacked
from .subscription import MOST_PREFETCH, Sizes, Subscription

logger = logging.getLogger("formrelay.brokers")

#: How often it is measured how short the jobs are, in seconds.
_MEASURE_SECONDS = 0.05
#: A connection that has lasted so many seconds was a good one.
_LASTED = 1.0
#: With a larger prefetch it is counted in bytes too.
_MANY = 1_000
#: How long a connection outlasts its last acknowledgements, in seconds: while its queue is slow,
#: RabbitMQ's channel holds acknowledgements back, and loses them when the connection ends.
_SETTLES = 0.5
#: How long a worker that stops waits for the consumer of a pause before, in seconds.
_LAST_WORDS = 2.0


class RabbitConsumer(RelayConsumer):
    """Fetches and settles the messages of one queue in one process.

    Args:
        limit: maximum number of messages in flight.
        fixed_prefetch: never fetch more ahead than ``prefetch``.
    """

    def __init__(
        self,
        broker: RelayBroker,
        client: RabbitClient,
        queue_name: str,
        *,
        prefetch: int,
        timeout_ms: int,
        limit: int | None = None,
        fixed_prefetch: bool = False,
    ) -> None:
        super().__init__(broker, queue_name, prefetch=prefetch, timeout_ms=timeout_ms)
        self._client = client
        self._limit = limit
        self._fixed_prefetch = fixed_prefetch
        # Of a queue of batches: so many large messages would not fit into memory.
        self._is_wide = prefetch > _MANY
        self._sizes = Sizes()
        self._quarantine = Quarantine(client, queue_name, broker.options)
        self._final_runs = self._quarantine.final_runs
        # Of the receiving thread alone:
        self._subscription: Subscription | None = None
        self._subscriptions = 0
        self._reconnect = Reconnect(queue_name, broker.clock)
        self._connected_at, self._returned_then = 0.0, 0
        self._measured_at, self._measured = 0.0, 0
        self._pause = PauseWatch(queue_name, broker.clock, client.connect)
        self._drainer: Thread | None = None
        # Between the threads:
        self._unacked = Unacked()
        self._settler = Settler(client, queue_name, self._shrink)

    # -- receive ---------------------------------------------------------------------

    def receive(self, timeout: float) -> Delivery | None:
        clock = self.broker.clock
        deadline = clock.monotonic() + timeout
        while True:
            try:
                delivery = self._next()
                if delivery is not None:
                    return delivery
                remaining = max(0.0, deadline - clock.monotonic())
                if self._subscription is not None:
                    self._send_and_receive(remaining)
                elif not self._connect():
                    Event().wait(min(remaining, self._reconnect.seconds))
            except (BrokerUnavailable, BrokerRefused) as error:
                self._failed(error)
                if self._subscription is not None:
                    # Not our connection, but what was to be written: it is tried again, and
                    # Dramatiq's thread looks at its own state meanwhile.
                    remaining = max(0.0, deadline - clock.monotonic())
                    Event().wait(min(remaining, self._reconnect.seconds))
                    return None
            if not self._has_work() and clock.monotonic() >= deadline:
                return None

    def _has_work(self) -> bool:
        subscription = self._subscription
        return (
            subscription is not None
            and bool(subscription.connection.contents or self._final_runs)
            and not self._must_hold()
        )

    def _next(self) -> Delivery | None:
        subscription = self._subscription
        if subscription is None:
            return None
        contents = subscription.connection.contents
        while not self._must_hold():
            if self._final_runs:
                delivery = self._final_runs.popleft()
                self._unacked.alone = delivery.tag
            elif contents:
                # Taken away when that is done: what is to be written may fail.
                taken = self._take(subscription, contents[0])
                contents.popleft()
                if taken is None:
                    continue
                delivery = taken
            else:
                break
            self._unacked.count += 1
            return delivery
        return None

    def _must_hold(self) -> bool:
        """Whether nothing is to be given out now."""
        if self.is_closing or self.broker.is_stopping:
            return True
        sink_limit = self.sink_limit()
        if (
            self._limit is None
            and sink_limit is None
            and self._unacked.alone is None
            and not self._final_runs
        ):
            return False
        self._unacked.collect(self._subscription)
        if sink_limit is not None and self._unacked.count >= sink_limit:
            return True
        if self._unacked.alone is not None:
            return True
        if self._final_runs:  # it runs when all else is finished
            return self._unacked.count > 0
        return self._limit is not None and self._unacked.count >= self._limit

    def _take(self, subscription: Subscription, content: codec.Content) -> Delivery | None:
        if self._is_wide:
            self._sizes.saw(len(content.body))
        if content.redelivered or content.has_headers:
            if self._quarantine.take_copy(content, subscription):
                return None
            suspect = self._quarantine.suspect(content)
            if suspect is not None and self._quarantine.attach(subscription, is_needed=True):
                return self._suspected(subscription, suspect)
        return self._decoded(subscription, content)

    def _decoded(self, subscription: Subscription, content: codec.Content) -> Delivery | None:
        tag = Tag(self._unacked, subscription.number, content.number)
        id = content.message_id or f"amqp-{uuid4()}"
        delivery = self.decoded(content.body, tag, id)
        if isinstance(delivery, Settlement):
            self._settler.later(delivery)
            return None
        return delivery

    # -- suspects --------------------------------------------------------------------

    def _suspected(self, subscription: Subscription, suspect: Suspect) -> Delivery | None:
        delivery = self._decoded(subscription, suspect.content)
        if delivery is None:
            return None
        suspect.delivery = delivery
        return self._quarantine.admit(suspect)

    # -- connect, send, receive ----------------------------------------------------------

    def _connect(self) -> bool:
        if self._reconnect.seconds:
            return False
        connection = self._client.connect()
        try:
            if self._subscriptions or self._reconnect.failures:
                self._client.declared.forget()  # it may have come back without them
            self._client.declared.ensure(connection, [self.queue_name])
            self._subscriptions += 1
            subscription = Subscription(
                connection, self.queue_name, number=self._subscriptions, prefetch=self.prefetch
            )
            self._pause.look(connection)
            self._follow(subscription)
            self._quarantine.attach(subscription)
            connection.wake_by(self._unacked)
        except BaseException:
            connection.abort()
            raise
        self._subscription, self._unacked.live = subscription, subscription.number
        self._connected_at = self.broker.clock.monotonic()
        self._returned_then = self._unacked.returned
        return True

    def _follow(self, subscription: Subscription) -> None:
        """Consume as many messages at a time as are wanted, or none."""
        wanted = self._wanted()
        if wanted == (subscription.prefetch if subscription.is_started else 0):
            return
        if subscription.is_started:
            self._stop(subscription)
        if wanted:
            subscription.prefetch = wanted
            subscription.start()

    def _wanted(self) -> int:
        """How many messages may be in flight; 0 while the queue is paused or its sink is down."""
        if self._pause.is_paused:
            return 0
        sink_limit = self.sink_limit()
        if sink_limit is not None:
            return sink_limit
        most = min(self.prefetch * self.batch_scale(), MOST_PREFETCH)
        return min(most, self._sizes.most) if self._is_wide else most

    def _stop(self, subscription: Subscription) -> None:
        """Consume no more, and hand back what was not given out."""
        for number in self._quarantine.forget():
            subscription.hand_back(number)
        self._unacked.collect(subscription)
        self._unacked.hand_back_due(subscription, math.inf)
        subscription.stop()

    def _send_and_receive(self, timeout: float) -> None:
        """Send what is settled, take in what has come; where nothing has, wait for it."""
        subscription = self._subscription
        assert subscription is not None
        clock = self.broker.clock
        check_at = self._quarantine.next_check()
        if check_at is not None:
            if check_at <= clock.monotonic():
                for delivery, deaths in self._quarantine.poison_messages():
                    self._settler.later(self.crash_loop(delivery, deaths))
            check_at = self._quarantine.next_check()
            if check_at is not None:
                timeout = min(timeout, max(0.0, check_at - clock.monotonic()))
        if self._pause.look_at <= clock.monotonic():
            self._pause.look(subscription.connection)
        self._follow(subscription)
        timeout = min(timeout, max(0.0, self._pause.look_at - clock.monotonic()))
        self._unacked.collect(self._subscription)
        self._unacked.hand_back_due(subscription, clock.monotonic())
        self._settler.write_pending(subscription)
        for due in (self._unacked.next_due(), self._settler.next_due()):
            if due is not None:
                timeout = min(timeout, max(0.0, due - clock.monotonic()))
        self._fetch_ahead(subscription)
        subscription.flush(all=False)
        subscription.connection.read(0)
        self._quarantine.take_copies(subscription)
        if not self._has_work():
            self._sleep(subscription, timeout)
            self._quarantine.take_copies(subscription)
        if subscription.connection.is_cancelled:
            subscription.connection.abort()
            raise BrokerUnavailable(
                f"the queue {self.queue_name!r} on RabbitMQ at {subscription.connection.where} "
                "was deleted; it is declared again"
            )

    def _sleep(self, subscription: Subscription, timeout: float) -> None:
        self._unacked.collect(self._subscription)
        subscription.flush(all=True)
        if self._has_work():
            return
        self._unacked.sleep(subscription, timeout)

    def _fetch_ahead(self, subscription: Subscription) -> None:
        if self._fixed_prefetch:
            return
        now = self.broker.clock.monotonic()
        elapsed = now - self._measured_at
        if elapsed > _MEASURE_SECONDS:
            subscription.fetch_ahead((self._unacked.returned - self._measured) / elapsed)
            self._measured, self._measured_at = self._unacked.returned, now

    def _failed(self, error: BrokerUnavailable | BrokerRefused) -> None:
        subscription = self._subscription
        lasted = self.broker.clock.monotonic() - self._connected_at
        served = subscription is not None and (
            lasted > _LASTED or self._unacked.returned > self._returned_then
        )
        if subscription is not None and not subscription.connection.is_open:
            # All that was not acknowledged is delivered again.
            self._subscription, self._unacked.live = None, 0
            self._quarantine.forget()
            self._unacked.alone = None
        if served:
            self._reconnect.succeeded()
        self._reconnect.failed(error)

    # -- settle ------------------------------------------------------------------------

    def settles_at_once(self, delivery: Delivery) -> bool:
        return isinstance(delivery.outcome, Done)

    def apply(self, settlement: Settlement, delivery: Delivery) -> None:
        due = settlement.due if settlement.replacements else None
        if due is not None and any(tag.is_uncounted for tag in settled_tags(settlement)):
            # Its trial could not begin. Written anew it would lose its count; handed back now, it
            # would come again at once.
            left = max(0.0, due / 1000 - self.broker.clock.time())
            for tag in settled_tags(settlement):
                tag.hand_back(self.broker.clock.monotonic() + left)
            return
        self._settler.apply(settlement, delivery)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Hand back what was not started."""
        for message in messages:
            assert isinstance(message, Delivery)
            message.tag.hand_back()

    # -- close -------------------------------------------------------------------------

    def close(self) -> None:
        """Take nothing more; close when what was begun is settled.

        Dramatiq closes the consumer of a paused worker as well, which then
        finishes its messages: were the connection closed under them, they
        would be delivered and run a second time.
        """
        self.finish()
        if self._drainer is not None:
            # Closed for good, after a pause: what it still has is settled or handed back by now.
            self._drainer.join(_LAST_WORDS)
            return
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            self._unacked.close()
            return
        try:
            self._stop(subscription)
        except (BrokerUnavailable, BrokerRefused):
            self._unacked.close()  # whatever was not acknowledged comes back
            return
        self._subscription = subscription
        self._unacked.collect(self._subscription)
        if self._unacked.count:
            self._drainer = Thread(target=self._drain, name="formrelay-drain", daemon=True)
            self._drainer.start()
        else:
            self._drain()

    def _drain(self) -> None:
        subscription = self._subscription
        assert subscription is not None
        with contextlib.suppress(BrokerUnavailable, BrokerRefused):
            while self._unacked.count:
                self._sleep(subscription, 0.2)
                self._quarantine.take_copies(subscription)
                while subscription.connection.contents:
                    subscription.hand_back(subscription.connection.contents.popleft().number)
                self._unacked.collect(self._subscription)
            self._settler.write_pending(subscription, is_last=True)
            subscription.flush(all=True)
            if self._drainer is not None:
                Event().wait(_SETTLES)
            self._quarantine.detach(subscription)
        self._subscription = None
        self._unacked.close()
        subscription.connection.close()
