"""Consumer base class: decodes messages and settles deliveries, for every broker.

A subclass receives raw messages from its server and applies settlements to them.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from threading import Lock
from typing import Any

import dramatiq
from dramatiq import Message, MessageProxy
from dramatiq.middleware import MiddlewareError

from ..core.errors import FormrelayError
from ..core.failure import Failure, Reason
from ..core.outcomes import DONE, Dead, Done, Outcome, Retry
from ..middleware.delivery import RETRIES, Batch, Delivery
from ..middleware.outcomes import rejected, without_outcome
from .base import RelayBroker
from .contract import LONGEST_DELAY
from .envelope import Undecodable, decode, decode_batch, is_frozen, without_options
from .settlement import Replacement, Settlement, Write, rescheduled, settlement_of
from .unencrypted import encrypt_delivery

logger = logging.getLogger("formrelay.brokers")

#: Seconds for which a closing consumer waits for running attempts before it interrupts them, and
#: for which it waits for interrupted attempts.
_FINISH_SECONDS, _INTERRUPT_SECONDS = 60.0, 5.0
_MILLISECOND = timedelta(milliseconds=1)


class CrashLoop(FormrelayError):
    """Every worker that ran the message died."""


class RelayConsumer(dramatiq.Consumer, ABC):
    """The consumer of one queue in one worker process.

    Dramatiq's consumer thread iterates over it. Dramatiq's worker threads and the async runner
    call ``ack`` and ``nack``, so code that settles must be thread-safe.
    """

    collects_batches = False

    def __init__(
        self, broker: RelayBroker, queue_name: str, *, prefetch: int, timeout_ms: int
    ) -> None:
        self.broker = broker
        self.queue_name = queue_name
        self.prefetch = prefetch
        self.timeout = timeout_ms / 1000
        #: Whether the consumer is closing: it delivers no more messages, but still settles.
        self.is_closing = False
        self._throttles = broker.throttles(queue_name)
        self._running = broker.history_recorder.running
        #: Batch actors that were declared after this consumer was made, which collects no batches.
        self._late_batch_actors: Collection[str] = ()
        self._finish_lock = Lock()
        #: When running attempts are interrupted, monotonic seconds; None before :meth:`finish`.
        self._finish_until: float | None = None
        #: When Dramatiq last asked for a message, monotonic seconds.
        self.asked_at = broker.clock.monotonic()

    def note_actors(self) -> None:
        """Read the options of the queue's actors again, because an actor was declared."""
        self._throttles = self.broker.throttles(self.queue_name)
        if not self.collects_batches:
            self._late_batch_actors = self.broker.batching(self.queue_name).keys()

    @property
    def problem(self) -> str | None:
        """Why the consumer cannot use the broker now; None if it can. Does not wait."""
        return None

    @property
    def stalled(self) -> float:
        """Seconds since Dramatiq last asked for a message; more than the timeout if it hangs."""
        return self.broker.clock.monotonic() - self.asked_at

    def __next__(self) -> MessageProxy | None:
        self.asked_at = self.broker.clock.monotonic()
        delivery = self.receive(self.timeout)
        if delivery is not None and delivery.actor_name in self.broker.async_actors:
            self.broker.async_runner.submit(delivery, self)
            return None
        if self._late_batch_actors and delivery is not None and not isinstance(delivery, Batch):
            return (
                Batch.of([delivery]) if delivery.actor_name in self._late_batch_actors else delivery
            )
        return delivery

    def sink_limit(self) -> int | None:
        """Maximum number of messages in flight while a sink of the queue's actors is failing.

        Returns:
            None: no limit; 0: no message; 1: one message, to test whether the sink works again.
        """
        limit: int | None = None
        for throttle in self._throttles:
            if throttle.is_tripped and (allowance := throttle.allowance) is not None:
                limit = allowance if limit is None else min(limit, allowance)
        return limit

    def batch_scale(self) -> int:
        """Factor by which batches are larger than configured, because a sink is busy."""
        return max([throttle.stretch for throttle in self._throttles], default=1)

    @abstractmethod
    def receive(self, timeout: float) -> Delivery | None:
        """Return the next message, or None after at most ``timeout`` seconds."""

    def receive_buffered(self) -> Iterable[Delivery]:
        """Return the prefetched messages at once, without waiting for more."""
        return ()

    def finish(self) -> None:
        """Stop delivering messages, and settle until no attempt of an ``async`` actor runs.

        Attempts that still run after 60 s are interrupted. When the worker stops, the consumer
        threads of all queues call this at the same time and wait for the attempts of all queues:
        Dramatiq closes the consumers one after the other, and until then each must keep its
        connection alive and send its settlements. The call by ``close()`` then finds nothing to
        wait for.
        """
        with self._finish_lock:  # close() may run while the consumer thread runs this
            self.is_closing = True
            self.requeue(self.broker.async_runner.take_back(self.queue_name))
            now = self.broker.clock.monotonic()
            if self._finish_until is None:
                self._finish_until = now + _FINISH_SECONDS
                self._wait_for_attempts(self._finish_until, of_all_queues=self.broker.is_stopping)
            elif now <= self._finish_until + _INTERRUPT_SECONDS:
                self._wait_for_attempts(self._finish_until)

    def _wait_for_attempts(self, until: float, *, of_all_queues: bool = False) -> None:
        runner = self.broker.async_runner
        while runner.running(None if of_all_queues else self.queue_name):
            now = self.broker.clock.monotonic()
            if now > until and self.broker.is_stopping:  # not when the worker pauses
                runner.interrupt(self.queue_name)
            if now > until + _INTERRUPT_SECONDS:
                if count := runner.running(self.queue_name):
                    logger.error(
                        "closed while attempts were running; their messages will run again",
                        extra={"queue": self.queue_name, "attempts": count},
                    )
                return
            self.receive(0.1)
            # Attempts that were started meanwhile, and that wait for a thread.
            if late := runner.take_back(self.queue_name):
                self.requeue(late)

    @abstractmethod
    def settles_at_once(self, delivery: Delivery) -> bool:
        """Whether ``delivery`` can be settled without waiting for the broker."""

    @abstractmethod
    def apply(self, settlement: Settlement, delivery: Delivery) -> None:
        """Apply ``settlement`` on the broker and stop counting ``delivery`` as in flight."""

    def ack(self, message: MessageProxy) -> None:
        """Settle a message by its outcome: done, retried or deferred."""
        assert isinstance(message, Delivery)
        message.end()
        self._running.pop(id(message), None)
        if message.carry_on is not None:
            self.broker.async_runner.settle_later(message, self)
        elif message.goes_back:
            self.requeue([message])
        else:
            if message.outcome is None:
                message.outcome = without_outcome(message, self.broker.clock.time())
            self.settle(message, message.outcome)

    def nack(self, message: MessageProxy) -> None:
        """Settle a message that failed and is not retried."""
        assert isinstance(message, Delivery)
        message.end()
        self._running.pop(id(message), None)
        if message.carry_on is not None:
            self.broker.async_runner.settle_later(message, self)
            return
        outcome = message.outcome
        if not isinstance(outcome, Dead):  # Dramatiq rejected it, not our middleware
            outcome = message.outcome = rejected(self.broker, message, self.broker.clock.time())
        self.settle(message, outcome)

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """Turn an outcome into a settlement and apply it.

        Never raises because of a message's content: the message would stay in flight for ever.
        """
        may_retry = isinstance(outcome, Retry) or isinstance(delivery, Batch)
        retried = _retried(delivery, outcome) if may_retry else ()
        settlement = self._settlement(delivery, outcome)
        if isinstance(delivery, Batch):
            # The consumer needs the parts until the settlement is applied; Dramatiq no longer
            # needs them.
            batch = delivery.copy()
            self.apply(settlement, batch)
            delivery.release()
            self.broker.history_recorder.count_batch(batch, outcome)
        else:
            self.apply(settlement, delivery)
            self.broker.history_recorder.count(
                delivery.queue_name, delivery.actor_name, outcome, delivery.took
            )
        for message, delay in retried:
            # Dramatiq enqueues a message that is retried. Only its signals are repeated here, so
            # what a hook changes in the message is not written, and a hook cannot refuse it.
            with suppress(MiddlewareError):
                self.broker.emit_before("enqueue", message, delay)
            self.broker.emit_after("enqueue", message, delay)

    def _settlement(self, delivery: Delivery, outcome: Outcome) -> Settlement:
        if outcome is DONE and not isinstance(delivery, Batch):
            return Settlement([], [delivery.tag])  # the usual case, without the steps below
        try:
            all_done = not isinstance(delivery, Batch) or delivery.part_outcomes is None
            is_done = all_done and isinstance(outcome, Done)
            fresh = delivery
            if not is_done:
                fresh = encrypt_delivery(self.broker, self._decode_again(delivery))
            return settlement_of(fresh, outcome, self.broker.clock.time())
        except Exception as error:
            if not isinstance(delivery, Batch) or delivery.was_stored:
                return self._settle_raw(delivery, error)
            # One part cannot be encoded: settle the parts one by one, so that the others are kept.
            settlement = Settlement()
            outcomes = delivery.part_outcomes or [outcome] * len(delivery.parts)
            for part, part_outcome in zip(delivery.parts, outcomes, strict=True):
                settlement.add(self._settlement(part, part_outcome))
            return settlement

    def _decode_again(self, delivery: Delivery) -> Delivery:
        """Decode the delivery again: its actor may have changed the arguments."""
        fresh = self._decode_raw(delivery)
        fresh.is_redelivered, fresh.took = delivery.is_redelivered, delivery.took
        fresh.attempt_traceparent = delivery.attempt_traceparent
        return fresh

    def _decode_raw(self, delivery: Delivery) -> Delivery:
        if isinstance(delivery, Batch):
            if delivery.was_stored:
                fresh = self._read(delivery.raw or b"", delivery.tag, delivery.message_id)
                assert isinstance(fresh, Batch)
            else:
                fresh = Batch.of([self._decode_again(part) for part in delivery.parts])
            fresh.part_outcomes = delivery.part_outcomes
            return fresh
        if delivery.raw is None:
            return delivery
        fresh = self._read(delivery.raw, delivery.tag, delivery.message_id)
        first_seen = delivery.message.message_timestamp
        if fresh.message.message_timestamp != first_seen:
            # A plain job has no timestamp; it keeps the timestamp of its first decoding.
            message = fresh.message.copy(message_timestamp=first_seen)
            return Delivery(message, delivery.tag, delivery.raw)
        return fresh

    def _settle_raw(self, delivery: Delivery, error: Exception) -> Settlement:
        """Dead-letter the bytes as received, because the message cannot be encoded again."""
        logger.critical(
            "could not encode a message; dead-lettered its bytes as received",
            extra={"queue": self.queue_name, "message_id": delivery.message_id},
            exc_info=error,
        )
        failure = Failure.undecodable(error, now=self.broker.clock.time())
        return _quarantined(delivery.raw or b"", delivery.tag, delivery.message_id, failure)

    def _shrink(
        self, replacement: Replacement, delivery: Delivery, error: Exception
    ) -> Iterable[tuple[Replacement, Delivery]]:
        """Split or shrink a replacement that is too large for the broker.

        A batch is replaced part by part; a message by its bytes as received, which the broker has
        accepted before.
        """
        if isinstance(delivery, Batch) and not delivery.was_stored:
            assert delivery.outcome is not None  # set before it is settled
            outcomes = delivery.part_outcomes or [delivery.outcome] * len(delivery.parts)
            for part, outcome in zip(delivery.parts, outcomes, strict=True):
                part.outcome = outcome
                if len(replacement.tags) > 1:
                    for smaller in self._settlement(part, outcome).replacements:
                        yield smaller, part
                elif part.tag is replacement.tags[0]:
                    yield self._replace_raw(part, error), delivery
        else:
            yield self._replace_raw(delivery, error), delivery

    def _replace_raw(self, delivery: Delivery, error: Exception) -> Replacement:
        """Dead-letter the bytes as received."""
        outcome = delivery.outcome
        if not isinstance(outcome, Dead):
            return self._settle_raw(delivery, error).replacements[0]
        raw = delivery.raw or b""
        write = Write(delivery.message_id, raw, failure=outcome.failure, keeps_id=True)
        return Replacement((delivery.tag,), (write,))

    @abstractmethod
    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Put messages that were not started back on the queue."""

    # -- decode --------------------------------------------------------------------

    def decoded(self, data: bytes, tag: Any, message_id: str) -> Delivery | Settlement:
        """Decode a message from the queue.

        Bytes that cannot be decoded become dead letters. A message with an ``eta`` in the future,
        which only stock producers write, is scheduled for that time.

        Args:
            tag: the handle by which the consumer settles the delivery.
            message_id: the id by which the broker knows the message.

        Returns:
            A delivery to run, or the settlement to apply to it instead.
        """
        try:
            delivery = self._read(data, tag, message_id)
        except Undecodable as error:
            logger.error(
                "quarantined a message that cannot be decoded",
                extra={
                    "queue": self.queue_name,
                    "message_id": message_id,
                    "error_message": str(error),
                },
            )
            failure = Failure.undecodable(error, now=self.broker.clock.time())
            self.broker.history_recorder.count(self.queue_name, "", Dead(failure), None)
            return _quarantined(data, tag, message_id, failure)
        eta = delivery.options.get("eta") if delivery.options else None
        if eta is not None:
            now = self.broker.clock.time() * 1000
            if isinstance(eta, int | float) and eta > now:
                # A later eta is checked again when the longest delay is over.
                due = int(min(eta, now + LONGEST_DELAY / timedelta(milliseconds=1)))
                message = delivery.message
                later = Settlement()
                later.replace(tag, rescheduled(message, due))
                return later
            # Dramatiq's worker keeps messages with an eta in memory until they are due.
            return Delivery(without_options(delivery.message, "eta"), tag, data)
        return delivery

    def _read(self, data: bytes, tag: Any, message_id: str) -> Delivery:
        message = decode(
            data,
            queue_name=self.queue_name,
            job_types=self.broker.job_types,
            message_id=message_id,
        )
        if message.options and is_frozen(message):
            return decode_batch(message, tag, data)
        return Delivery(message, tag, data)

    def crash_loop(self, delivery: Delivery, deaths: int) -> Settlement:
        """Dead-letter a message that killed its worker too often."""
        error = CrashLoop(f"{deaths} workers died while this message was in flight")
        now = self.broker.clock.time()
        failure = Failure.of(error, reason=Reason.CRASH_LOOP, attempt=delivery.attempt, now=now)
        logger.error(
            "dead-lettered a message whose workers died",
            extra={"queue": self.queue_name, "message_id": delivery.message_id, "deaths": deaths},
        )
        self.broker.history_recorder.count(
            self.queue_name, delivery.actor_name, Dead(failure), None
        )
        return settlement_of(encrypt_delivery(self.broker, delivery), Dead(failure), now)


def _quarantined(data: bytes, tag: Any, message_id: str, failure: Failure) -> Settlement:
    """Return the settlement that dead-letters bytes as received."""
    settlement = Settlement()
    settlement.replace(tag, Write(message_id, data, failure=failure, keeps_id=True))
    return settlement


def parts_of(messages: Iterable[MessageProxy]) -> Iterator[MessageProxy]:
    """Yield messages as the broker knows them: the parts of a batch made in this process."""
    for message in messages:
        if isinstance(message, Batch) and not message.was_stored:
            yield from message.parts
        else:
            yield message


def _retried(delivery: Delivery, outcome: Outcome) -> list[tuple[Message[Any], int]]:
    """Return each message that is retried, with its delay in milliseconds."""
    pairs: Iterable[tuple[Delivery, Outcome]] = [(delivery, outcome)]
    if isinstance(delivery, Batch) and delivery.part_outcomes is not None:
        pairs = zip(delivery.parts, delivery.part_outcomes, strict=True)
    return [
        (part.message.copy(options={RETRIES: part.attempt}), outcome.after // _MILLISECOND)
        for part, outcome in pairs
        if isinstance(outcome, Retry)
    ]
