"""settle: an outcome as the few operations that a broker has to carry out.

Pure, and the same for every broker; the consumers do nothing else with an
outcome. A settlement is carried out whole or not at all where the broker can
(Redis: one Lua call), and otherwise in an order in which a crash may repeat a
message but cannot lose one: write first, remove last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

from dramatiq import Message

from ..core.clock import to_millis
from ..core.failure import Failure
from ..core.outcomes import Dead, Defer, Done, Outcome, Retry
from ..middleware.delivery import FAILURE, RETRIES, Batch, Delivery
from .envelope import encode, encode_batch


@dataclass(frozen=True, slots=True)
class Write:
    """One message to be written.

    Attributes:
        tag: the delivery that it replaces; None where it replaces none.
        message_id: its id on the broker.
        body: the encoded message.
        due: unix milliseconds at which it is to be delivered; meaningless for the dead.
        beside: of a write that replaces none, a delivery that this process must still
            hold: were it taken over by another, the write would be one too many.
        is_untried: it replaces a suspect that was not tried, and is one as it was.
    """

    tag: Any
    message_id: str
    body: bytes
    due: int = 0
    beside: Any = None
    is_untried: bool = False


@dataclass(slots=True)
class Settlement:
    """What to do on the broker, in this order, in one step where possible."""

    schedule: list[Write] = field(default_factory=list)
    bury: list[Write] = field(default_factory=list)
    remove: list[Any] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.schedule or self.bury or self.remove)

    def __len__(self) -> int:
        return len(self.schedule) + len(self.bury) + len(self.remove)

    def add(self, other: Settlement) -> None:
        """Carry ``other`` out as well."""
        self.schedule += other.schedule
        self.bury += other.bury
        self.remove += other.remove


def settled_tags(settlement: Settlement) -> Iterator[Any]:
    """The deliveries that a settlement takes off the consumer's hands."""
    yield from settlement.remove
    for write in (*settlement.schedule, *settlement.bury):
        if write.tag is not None:
            yield write.tag


def settlement_of(delivery: Delivery, outcome: Outcome, now: float) -> Settlement:
    """The operations for one delivery.

    Args:
        outcome: of the whole delivery; a batch's ``part_outcomes`` go before it.
        now: unix time in seconds.
    """
    settlement = Settlement()
    if not isinstance(delivery, Batch):
        _settle_one(settlement, delivery, outcome, now)
    elif isinstance(outcome, Done) and delivery.part_outcomes is None:
        whole = [delivery] if delivery.was_stored else delivery.parts
        settlement.remove += [part.tag for part in whole]
    elif isinstance(outcome, Retry | Defer) and delivery.part_outcomes is None:
        _freeze(settlement, delivery, outcome, now)
    else:
        outcomes = delivery.part_outcomes or [outcome] * len(delivery.parts)
        for part, of_part in zip(delivery.parts, outcomes, strict=True):
            _settle_one(settlement, part, of_part, now, batch=delivery)
        if delivery.was_stored:
            settlement.remove.append(delivery.tag)
    return settlement


def _settle_one(
    settlement: Settlement,
    delivery: Delivery,
    outcome: Outcome,
    now: float,
    batch: Batch | None = None,
) -> None:
    tag, message = delivery.tag, delivery.message
    beside = batch.tag if batch is not None and tag is None else None
    attempt = delivery.attempt if batch is None else batch.attempt_of(delivery)
    match outcome:
        case Done():
            if tag is not None:
                settlement.remove.append(tag)
        case Retry(after=after, failure=failure):
            message = message.copy(options={RETRIES: attempt, FAILURE: failure.to_json()})
            settlement.schedule.append(_scheduled(tag, message, now, after, beside))
        case Defer(after=after):
            settlement.schedule.append(_scheduled(tag, message, now, after, beside))
        case Dead(failure=failure):
            message = buried(message, failure)
            body = encode(message)
            settlement.bury.append(Write(tag, message.message_id, body, beside=beside))


def _freeze(settlement: Settlement, batch: Batch, outcome: Retry | Defer, now: float) -> None:
    """A batch that is tried again stays as it is: same parts, same order."""
    options: dict[str, Any] = {}
    if isinstance(outcome, Retry):
        options = {RETRIES: batch.attempt, FAILURE: outcome.failure.to_json()}
    message = encode_batch(batch, options)
    if batch.was_stored:
        settlement.schedule.append(_scheduled(batch.tag, message, now, outcome.after))
        return
    message = message.copy(message_id=f"batch-{uuid4()}")
    tags = [part.tag for part in batch.parts]
    settlement.schedule.append(_scheduled(None, message, now, outcome.after, beside=tags[0]))
    settlement.remove += tags


def _scheduled(
    tag: Any, message: Message[Any], now: float, after: timedelta, beside: Any = None
) -> Write:
    due = to_millis(now + after.total_seconds())
    return Write(tag, message.message_id, encode(message), due, beside)


def buried(message: Message[Any], failure: Failure) -> Message[Any]:
    """The message as a dead letter: itself, with the record of why."""
    return message.copy(options={FAILURE: failure.to_json()})
