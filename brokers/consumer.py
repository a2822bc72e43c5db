"""consume, decode, settle: what the consumers of every broker share.

A subclass says how to receive raw messages and how to carry a settlement out.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import dramatiq
from dramatiq import Message, MessageProxy

from ..core.errors import FormrelayError
from ..core.failure import Failure, Reason
from ..core.outcomes import Dead, Done, Outcome
from ..middleware.delivery import Batch, Delivery
from ..middleware.outcomes import rejected, without_outcome
from .base import RelayBroker
from .contract import LONGEST_DELAY
from .envelope import Undecodable, decode, is_frozen, thaw
from .settlement import Replacement, Settlement, Write, rescheduled, settlement_of

logger = logging.getLogger("formrelay.brokers")


#: A consumer that is closed waits for what was begun for so many seconds at the most.
_LAST_WORDS = 60.0


class CrashLoop(FormrelayError):
    """Every worker that tried the message died."""


class RelayConsumer(dramatiq.Consumer, ABC):
    """The consumer of one queue in one worker process.

    Dramatiq's consumer thread iterates; its worker threads call ``ack`` and
    ``nack``. So everything that a settlement touches must be safe across threads.
    """

    def __init__(
        self, broker: RelayBroker, queue_name: str, *, prefetch: int, timeout_ms: int
    ) -> None:
        self.broker = broker
        self.queue_name = queue_name
        self.prefetch = prefetch
        self.timeout = timeout_ms / 1000
        #: Nothing more is given out: what was begun is finished first.
        self.is_closing = False
        self._throttles = broker.throttles(queue_name)

    def __next__(self) -> MessageProxy | None:
        delivery = self.receive(self.timeout)
        if delivery is not None and delivery.actor_name in self.broker.awaiting:
            self.broker.unfinished.take(delivery, self)
            return None
        return delivery

    def allowed(self) -> int | None:
        """How many messages may be in hand, as the sinks of the queue's actors say.

        None: any number; 0: none for now; 1: one, to find out whether its sink works again.
        """
        found: int | None = None
        for throttle in self._throttles:
            if throttle.is_tripped and (one := throttle.allowance) is not None:
                found = one if found is None else min(found, one)
        return found

    def stretch(self) -> int:
        """How many times as large as usual batches are to be."""
        return max([throttle.stretch for throttle in self._throttles], default=1)

    @abstractmethod
    def receive(self, timeout: float) -> Delivery | None:
        """The next message, or None after at most ``timeout`` seconds."""

    def receive_rest(self) -> Iterable[Delivery]:
        """Messages that are here already, which :meth:`receive` would give one by one."""
        return ()

    def finish(self) -> None:
        """Wait for the attempts that wait without a thread, and go on settling meanwhile."""
        self.is_closing = True
        self.requeue(self.broker.unfinished.hand_back(self.queue_name))
        deadline = self.broker.clock.monotonic() + _LAST_WORDS
        while count := self.broker.unfinished.count(self.queue_name):
            if self.broker.clock.monotonic() > deadline:
                logger.error(
                    "closed with attempts unfinished; they will be made again",
                    extra={"queue": self.queue_name, "attempts": count},
                )
                return
            self.receive(0.1)

    @abstractmethod
    def settles_at_once(self, delivery: Delivery) -> bool:
        """Whether to settle ``delivery`` takes no answer of the broker's."""

    @abstractmethod
    def carry_out(self, settlement: Settlement, delivery: Delivery) -> None:
        """Carry ``settlement`` out; ``delivery`` is no longer in hand."""

    def ack(self, message: MessageProxy) -> None:
        """Settle a message that did not fail for good, by the outcome it carries."""
        assert isinstance(message, Delivery)
        if message.carry_on is not None:
            self.broker.unfinished.hold(message, self)
        elif message.goes_back:
            self.requeue([message])
        else:
            if message.outcome is None:
                message.outcome = without_outcome(message, self.broker.clock.time())
            self.settle(message, message.outcome)

    def nack(self, message: MessageProxy) -> None:
        """Settle a message that failed for good."""
        assert isinstance(message, Delivery)
        if message.carry_on is not None:
            self.broker.unfinished.hold(message, self)
            return
        outcome = message.outcome
        if not isinstance(outcome, Dead):  # Dramatiq gave it up, not a middleware of ours
            outcome = message.outcome = rejected(self.broker, message, self.broker.clock.time())
        self.settle(message, outcome)

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """Turn an outcome into a settlement and carry it out.

        Never raises for what is in the message: a worker thread that failed
        here would leave it in flight for ever.
        """
        settlement = self._settlement(delivery, outcome)
        if isinstance(delivery, Batch):
            # Until the broker has carried it out, the consumer needs the parts; nobody else does.
            self.carry_out(settlement, delivery.copy())
            delivery.release()
        else:
            self.carry_out(settlement, delivery)

    def _settlement(self, delivery: Delivery, outcome: Outcome) -> Settlement:
        try:
            is_done = isinstance(outcome, Done) and not _has_failed_parts(delivery)
            return settlement_of(
                delivery if is_done else self._pristine(delivery),
                outcome,
                self.broker.clock.time(),
            )
        except Exception as error:
            if not isinstance(delivery, Batch) or delivery.was_stored:
                return self._unsettleable(delivery, error)
            # One of them cannot be written; each by itself, so that it takes no other with it.
            settlement = Settlement()
            outcomes = delivery.part_outcomes or [outcome] * len(delivery.parts)
            for part, of_part in zip(delivery.parts, outcomes, strict=True):
                settlement.add(self._settlement(part, of_part))
            return settlement

    def _pristine(self, delivery: Delivery) -> Delivery:
        """The delivery as it came: an actor may have changed what it was given."""
        if isinstance(delivery, Batch):
            if delivery.was_stored:
                fresh = self._read(delivery.raw or b"", delivery.tag, delivery.message_id)
                assert isinstance(fresh, Batch)
            else:
                fresh = Batch.of([self._pristine(part) for part in delivery.parts])
            fresh.part_outcomes = delivery.part_outcomes
            return fresh
        if delivery.raw is None:
            return delivery
        fresh = self._read(delivery.raw, delivery.tag, delivery.message_id)
        first_seen = delivery.message.message_timestamp
        if fresh.message.message_timestamp != first_seen:
            # A plain job says none: it keeps the one with which its actor saw it.
            message = fresh.message.copy(message_timestamp=first_seen)
            return Delivery(message, delivery.tag, delivery.raw)
        return fresh

    def _unsettleable(self, delivery: Delivery, error: Exception) -> Settlement:
        """Bury the bytes as they came: what was decided about them cannot be written."""
        logger.critical(
            "could not write a message again; its bytes are among the dead letters",
            extra={"queue": self.queue_name, "message_id": delivery.message_id},
            exc_info=error,
        )
        return self._quarantined(delivery.raw or b"", delivery.tag, delivery.message_id, error)

    def _smaller(
        self, replacement: Replacement, delivery: Delivery, error: Exception
    ) -> Iterable[tuple[Replacement, Delivery]]:
        """What to write instead of a replacement that the broker finds too large.

        Of a batch, each part by itself; of a message, its bytes as they came, which the broker
        has taken before.
        """
        if isinstance(delivery, Batch) and not delivery.was_stored:
            assert delivery.outcome is not None  # set before it is settled
            outcomes = delivery.part_outcomes or [delivery.outcome] * len(delivery.parts)
            for part, outcome in zip(delivery.parts, outcomes, strict=True):
                part.outcome = outcome
                if len(replacement.tags) > 1:
                    for one in self._settlement(part, outcome).replacements:
                        yield one, part
                elif part.tag is replacement.tags[0]:
                    yield self._raw(part, error), delivery
        else:
            yield self._raw(delivery, error), delivery

    def _raw(self, delivery: Delivery, error: Exception) -> Replacement:
        """A dead letter of the bytes as they came."""
        outcome = delivery.outcome
        if not isinstance(outcome, Dead):
            return self._unsettleable(delivery, error).replacements[0]
        raw = delivery.raw or b""
        write = Write(delivery.message_id, raw, failure=outcome.failure, keeps_id=True)
        return Replacement((delivery.tag,), (write,))

    @abstractmethod
    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Hand back messages that were not started."""

    # -- decode --------------------------------------------------------------------

    def decoded(self, data: bytes, tag: Any, message_id: str) -> Delivery | Settlement:
        """What came off the queue: a delivery to work on, or what to do with it instead.

        Bytes that cannot be decoded are quarantined; a message that a stock
        producer marked with a future ``eta`` is scheduled for it.

        Args:
            message_id: what the broker calls it.
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
            return self._quarantined(data, tag, message_id, error)
        eta = delivery.options.get("eta") if delivery.options else None
        if eta is not None:
            now = self.broker.clock.time() * 1000
            if isinstance(eta, int | float) and eta > now:
                # Not further ahead than anything else; it is looked at again then.
                due = int(min(eta, now + LONGEST_DELAY / timedelta(milliseconds=1)))
                message = delivery.message
                later = Settlement()
                later.replace(tag, rescheduled(message, due))
                return later
            return Delivery(_without_eta(delivery.message), tag, data)
        return delivery

    def _read(self, data: bytes, tag: Any, message_id: str) -> Delivery:
        message = decode(
            data,
            queue_name=self.queue_name,
            job_types=self.broker.job_types,
            message_id=message_id,
        )
        if message.options and is_frozen(message):
            return thaw(message, tag, data)
        return Delivery(message, tag, data)

    def crash_loop(self, delivery: Delivery, deaths: int) -> Settlement:
        """Dead-letter a message whose worker died each time."""
        error = CrashLoop(f"{deaths} workers died while they held this message")
        now = self.broker.clock.time()
        failure = Failure.of(error, reason=Reason.CRASH_LOOP, attempt=delivery.attempt, now=now)
        logger.error(
            "dead-lettered a message whose workers died",
            extra={"queue": self.queue_name, "message_id": delivery.message_id, "deaths": deaths},
        )
        return settlement_of(delivery, Dead(failure), now)

    def _quarantined(self, data: bytes, tag: Any, message_id: str, error: Exception) -> Settlement:
        failure = Failure.undecodable(error, now=self.broker.clock.time())
        settlement = Settlement()
        settlement.replace(tag, Write(message_id, data, failure=failure, keeps_id=True))
        return settlement


def _has_failed_parts(delivery: Delivery) -> bool:
    return isinstance(delivery, Batch) and delivery.part_outcomes is not None


def _without_eta(message: Message[Any]) -> Message[Any]:
    # With an eta in its options, Dramatiq's worker would hold the message in its memory.
    options = {name: value for name, value in message.options.items() if name != "eta"}
    return Message(**{**message.asdict(), "options": options})
