"""The consumer of one queue on RabbitMQ.

A lost connection is replaced here, because Dramatiq would wait longer before it reconnects.

Threads: the receiving thread calls ``receive`` and uses the connection of the consumer. It is
Dramatiq's consumer thread, or after :meth:`RabbitConsumer.close` the thread that drains the
consumer. Dramatiq's worker threads and the async runner call ``apply``. They publish the messages
that are retried, deferred or dead-lettered on connections of the client and wait for the
confirms. They leave the acknowledgements to the receiving thread (:mod:`.subscription`), which
combines them.
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
from ..consumer import RelayConsumer, parts_of
from ..errors import BrokerRefused, BrokerUnavailable
from ..retrying import Reconnect
from ..settlement import Settlement, settled_tags
from . import codec
from .client import RabbitClient
from .crash_loops import Quarantine
from .pauses import QueuePause
from .settling import Settler
from .subscription import MAX_PREFETCH, MeanSize, Subscription, Tag, Unacked

logger = logging.getLogger("formrelay.brokers")

#: Seconds between two measurements of how many messages are settled.
_MEASURE_EVERY = 0.05
#: Seconds after which a connection counts as successful.
_STABLE_AFTER = 1.0
#: A larger prefetch is also limited by the bytes of its messages.
_COUNT_BYTES_ABOVE = 1_000
#: Seconds that a connection stays open after its last acknowledgements: while its queue is slow,
#: RabbitMQ's channel delays acknowledgements, and loses them when the connection ends.
_CLOSE_AFTER = 0.5
#: Seconds that a stopping worker waits for the thread that drains a consumer closed by a pause.
_DRAIN_SECONDS = 2.0


class RabbitConsumer(RelayConsumer):
    """Fetches and settles the messages of one queue in one process.

    Args:
        limit: maximum number of messages in flight.
        fixed_prefetch: never raise the prefetch, however short the jobs are.
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
        # A prefetch as large as for batches would not fit into memory if the messages are large.
        self._mean_size = MeanSize() if prefetch > _COUNT_BYTES_ABOVE else None
        self._quarantine = Quarantine(client, queue_name, broker.options)
        self._final_runs = self._quarantine.final_runs
        # Used by the receiving thread alone:
        self._subscription: Subscription | None = None
        self._reconnect = Reconnect(queue_name, broker.clock)
        self._connected_at, self._released_before = 0.0, 0
        self._measured_at, self._measured = 0.0, 0
        self._pause = QueuePause(client, queue_name)
        self._drainer: Thread | None = None
        # Shared by the threads:
        self._unacked = Unacked()
        self._settler = Settler(client, queue_name, self._shrink)

    @property
    def in_flight(self) -> int:
        """Number of messages that this process has received and not settled."""
        subscription = self._subscription
        prefetched = 0 if subscription is None else len(subscription.connection.contents)
        return self._unacked.count + prefetched + len(self._final_runs)

    @property
    def problem(self) -> str | None:
        return None if self._subscription is not None else self._reconnect.problem

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
                self._on_error(error)
                if self._subscription is not None:
                    # The consumer's connection is open; a write failed and is retried. Return, so
                    # that Dramatiq's thread checks its own state.
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
            and not self._must_wait()
        )

    def _next(self) -> Delivery | None:
        subscription = self._subscription
        if subscription is None:
            return None
        contents = subscription.connection.contents
        while not self._must_wait():
            if self._final_runs:
                delivery = self._final_runs.popleft()
                self._unacked.final_run = delivery.tag
            elif contents:
                # Removed afterwards: :meth:`_take` may write, and the write may fail.
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

    def _must_wait(self) -> bool:
        """Whether no message may be delivered now."""
        if self.is_closing or self.broker.is_draining:
            return True
        unacked, sink_limit = self._unacked, self.sink_limit()
        if sink_limit is None and not (self._limit or unacked.final_run or self._final_runs):
            return False
        unacked.collect()
        # A final run starts when no other message is in flight.
        limits = (self._limit, sink_limit, 1 if self._final_runs else None)
        return unacked.final_run is not None or any(
            limit is not None and unacked.count >= limit for limit in limits
        )

    def _take(self, subscription: Subscription, content: codec.Content) -> Delivery | None:
        if self._mean_size is not None:
            self._mean_size.add(len(content.body))
        if content.redelivered or content.has_headers:
            if self._quarantine.take_copy(content, subscription):
                return None
            suspect = self._quarantine.suspect(content)
            if suspect is not None and self._quarantine.attach(subscription, is_needed=True):
                suspect.delivery = self._decode(subscription, content)
                if suspect.delivery is None:
                    return None
                suspect.delivery.is_redelivered = True
                return self._quarantine.admit(suspect)
        return self._decode(subscription, content)

    def _decode(self, subscription: Subscription, content: codec.Content) -> Delivery | None:
        tag = Tag(self._unacked, subscription, content.delivery_tag)
        id = content.message_id or f"amqp-{uuid4()}"
        delivery = self.decoded(content.body, tag, id)
        if isinstance(delivery, Settlement):
            self._settler.apply_later(delivery)
            return None
        delivery.is_redelivered |= content.redelivered
        return delivery

    # -- connect, send, receive ----------------------------------------------------------

    def _connect(self) -> bool:
        if self._reconnect.seconds:
            return False
        connection = self._client.connect()
        try:
            if self._connected_at or self._reconnect.failures:
                self._client.declared.forget()  # the server may have lost its queues
            self._client.declared.ensure(connection, [self.queue_name])
            subscription = Subscription(connection, self.queue_name, prefetch=self.prefetch)
            self._pause.check(connection)
            self._apply_prefetch(subscription)
            self._quarantine.attach(subscription)
            connection.wake_by(self._unacked.wakes)
        except BaseException:
            connection.abort()
            raise
        self._subscription = subscription
        self._connected_at = self.broker.clock.monotonic()
        self._released_before = self._unacked.released
        return True

    def _apply_prefetch(self, subscription: Subscription) -> None:
        """Start, stop or restart the consumer if another prefetch is wanted."""
        wanted = self._wanted_prefetch()
        if wanted == (subscription.prefetch if subscription.is_started else 0):
            return
        if subscription.is_started:
            self._stop(subscription)
        if wanted:
            subscription.prefetch = wanted
            subscription.start()

    def _wanted_prefetch(self) -> int:
        """Return the prefetch; 0 while no message may be delivered."""
        if self._pause.is_paused or self.broker.is_draining:
            return 0
        sink_limit = self.sink_limit()
        if sink_limit is not None:
            return sink_limit
        prefetch = min(self.prefetch * self.batch_scale(), MAX_PREFETCH)
        if self._mean_size is not None:
            prefetch = min(prefetch, self._mean_size.max_prefetch)
        return prefetch

    def _stop(self, subscription: Subscription) -> None:
        """Stop consuming, and requeue the messages that no worker thread has."""
        for delivery_tag in self._quarantine.forget():
            subscription.requeue(delivery_tag)
        self._unacked.collect()
        self._unacked.requeue_due(math.inf)
        subscription.stop()

    def _send_and_receive(self, timeout: float) -> None:
        """Send settlements and receive messages; wait up to ``timeout`` seconds for one."""
        subscription = self._subscription
        assert subscription is not None
        clock = self.broker.clock
        for delivery, deaths in self._quarantine.poison_messages():
            self._settler.apply_later(self.crash_loop(delivery, deaths))
        if self._pause.check_at <= clock.monotonic():
            self._pause.check(subscription.connection)
        self._apply_prefetch(subscription)
        self._unacked.collect()
        self._unacked.requeue_due(clock.monotonic())
        self._settler.write_pending()
        for due in (
            self._quarantine.next_check(),
            self._pause.check_at,
            self._unacked.next_due(),
            self._settler.next_due(),
        ):
            if due is not None:
                timeout = min(timeout, max(0.0, due - clock.monotonic()))
        self._adjust_prefetch(subscription)
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
                "was deleted, or a job took longer than consumer_timeout (RabbitMQ 4.3 and newer); "
                "it is declared again"
            )

    def _sleep(self, subscription: Subscription, timeout: float) -> None:
        self._unacked.collect()
        subscription.flush(all=True)
        if self._has_work():
            return
        self._unacked.sleep(subscription, timeout)

    def _adjust_prefetch(self, subscription: Subscription) -> None:
        if self._fixed_prefetch:
            return
        now = self.broker.clock.monotonic()
        elapsed = now - self._measured_at
        if elapsed > _MEASURE_EVERY:
            subscription.adjust_prefetch((self._unacked.released - self._measured) / elapsed)
            self._measured, self._measured_at = self._unacked.released, now

    def _on_error(self, error: BrokerUnavailable | BrokerRefused) -> None:
        subscription = self._subscription
        lasted = self.broker.clock.monotonic() - self._connected_at
        was_successful = subscription is not None and (
            lasted > _STABLE_AFTER or self._unacked.released > self._released_before
        )
        if subscription is not None and not subscription.connection.is_open:
            # RabbitMQ redelivers every message that was not acknowledged.
            self._subscription = None
            self._quarantine.forget()
            self._unacked.final_run = None
        if was_successful:
            self._reconnect.succeeded()
        self._reconnect.failed(error)

    # -- settle ------------------------------------------------------------------------

    def settles_at_once(self, delivery: Delivery) -> bool:
        return isinstance(delivery.outcome, Done)

    def apply(self, settlement: Settlement, delivery: Delivery) -> None:
        due = settlement.due if settlement.replacements else None
        if due is not None and any(tag.awaits_quarantine_run for tag in settled_tags(settlement)):
            # The quarantine run could not start. Publishing the message again would lose its count,
            # and requeuing it now would redeliver it at once.
            left = max(0.0, due / 1000 - self.broker.clock.time())
            for tag in settled_tags(settlement):
                tag.requeue(self.broker.clock.monotonic() + left)
            return
        self._settler.apply(settlement, delivery)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Put messages that were not started back on the queue."""
        for message in parts_of(messages):
            assert isinstance(message, Delivery)
            message.tag.requeue()

    # -- close -------------------------------------------------------------------------

    def close(self) -> None:
        """Stop consuming; close the connection when the messages in flight are settled.

        Dramatiq also closes the consumer of a paused worker, whose messages still run. If the
        connection closed before they are settled, RabbitMQ would redeliver them and they would
        run twice. A thread then settles them.
        """
        self.finish()
        if self._drainer is not None:
            # The second close, after a pause: all messages are settled or requeued by now.
            self._drainer.join(_DRAIN_SECONDS)
            return
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            self._unacked.close()
            return
        try:
            self._stop(subscription)
        except (BrokerUnavailable, BrokerRefused):
            self._unacked.close()  # RabbitMQ redelivers every message in flight
            return
        self._subscription = subscription
        self._unacked.collect()
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
                    subscription.requeue(subscription.connection.contents.popleft().delivery_tag)
                self._unacked.collect()
            self._settler.write_pending(is_last=True)
            subscription.flush(all=True)
            if self._drainer is not None:
                Event().wait(_CLOSE_AFTER)
            self._quarantine.detach(subscription)
        self._subscription = None
        subscription.connection.close()  # before the wake-up sockets, which it polls
        self._unacked.close()
