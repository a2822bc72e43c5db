"""consume, decode, settle: what the consumers of every broker share.

A subclass says how to receive raw messages and how to carry a settlement out.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import dramatiq
from dramatiq import Message, MessageProxy

from ..core.failure import Failure, Reason
from ..core.outcomes import DONE, Dead, Outcome
from ..middleware.delivery import Delivery
from ..middleware.outcomes import rejected
from .base import RelayBroker
from .envelope import Undecodable, decode, encode, is_frozen, quarantine, thaw
from .settlement import Settlement, Write, settlement_of

logger = logging.getLogger("formrelay.brokers")


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

    def __next__(self) -> MessageProxy | None:
        return self.receive(self.timeout)

    @abstractmethod
    def receive(self, timeout: float) -> Delivery | None:
        """The next message, or None after at most ``timeout`` seconds."""

    @abstractmethod
    def carry_out(self, settlement: Settlement, delivery: Delivery) -> None:
        """Carry ``settlement`` out; ``delivery`` is no longer in hand."""

    def ack(self, message: MessageProxy) -> None:
        """Settle a message that did not fail for good, by the outcome it carries."""
        assert isinstance(message, Delivery)
        self.settle(message, message.outcome or DONE)

    def nack(self, message: MessageProxy) -> None:
        """Settle a message that failed for good."""
        assert isinstance(message, Delivery)
        outcome = message.outcome
        if not isinstance(outcome, Dead):  # Dramatiq gave it up, not a middleware of ours
            outcome = rejected(self.broker, message, self.broker.clock.time())
        self.settle(message, outcome)

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        self.carry_out(settlement_of(delivery, outcome, self.broker.clock.time()), delivery)

    @abstractmethod
    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Hand back messages that were not started."""

    # -- decode --------------------------------------------------------------------

    def decoded(self, data: bytes, tag: Any, message_id: str) -> Delivery | Settlement:
        """What came off the queue: a delivery to work on, or what to do with it instead.

        Bytes that cannot be decoded are quarantined; a message that a stock
        producer marked with a future ``eta`` is scheduled for it.
        """
        try:
            message = decode(data, queue_name=self.queue_name, job_types=self.broker.job_types)
            if is_frozen(message):
                return thaw(message, tag)
        except Undecodable as error:
            return self._quarantined(data, tag, message_id, error)
        eta = message.options.get("eta")
        if eta is not None:
            now = self.broker.clock.time() * 1000
            if isinstance(eta, int | float) and eta > now:
                return Settlement(
                    schedule=[Write(tag, message.message_id, encode(message), due=int(eta))]
                )
            message = _without_eta(message)
        return Delivery(message, tag)

    def _quarantined(
        self, data: bytes, tag: Any, message_id: str, error: Undecodable
    ) -> Settlement:
        failure = Failure.of(
            error, reason=Reason.UNDECODABLE, attempt=0, now=self.broker.clock.time()
        )
        logger.error(
            "quarantined a message that cannot be decoded",
            extra={"queue": self.queue_name, "message_id": message_id, "error_message": str(error)},
        )
        dead = quarantine(data, queue_name=self.queue_name, message_id=message_id, failure=failure)
        return Settlement(bury=[Write(tag, message_id, encode(dead))])


def _without_eta(message: Message[Any]) -> Message[Any]:
    # With an eta in its options, Dramatiq's worker would hold the message in its memory.
    options = {name: value for name, value in message.options.items() if name != "eta"}
    return Message(**{**message.asdict(), "options": options})
