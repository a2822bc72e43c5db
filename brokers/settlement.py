"""settle: an outcome as the few operations that a broker has to carry out.

Pure, and the same for every broker; the consumers do nothing else with an
outcome. Messages that fail are replaced: what takes their place is written and
they are removed, in one step where the broker can (Redis: one Lua call), and
otherwise in an order in which a crash may repeat a message but cannot lose one:
write first, remove last. A worker whose messages were recovered by another worker
replaces nothing; only Done removes messages that are no longer in flight for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

from dramatiq import Message

from ..core.clock import to_millis
from ..core.failure import Failure
from ..core.outcomes import Dead, Defer, Done, Outcome, Retry
from ..middleware.delivery import FAILURE, RETRIES, Batch, Delivery
from .envelope import encode, encode_batch, priority_in


@dataclass(frozen=True, slots=True)
class Write:
    """A message to be written.

    Attributes:
        message_id: its id.
        body: the encoded message.
        due: unix milliseconds at which it is to be delivered; None for a dead letter.
        priority: 0 to 9; None where the message has none.
        failure: for a body that is no message (bytes that could not be decoded, as they came):
            why it is dead. A message carries that itself.
        keeps_id: it is the delivery that it replaces, written again, and keeps the id by which
            the broker knows that delivery.
    """

    message_id: str
    body: bytes
    due: int | None = None
    priority: int | None = None
    failure: Failure | None = None
    keeps_id: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Replacement:
    """Messages that take the place of deliveries in flight.

    Carried out only while all of these deliveries are in flight for this worker. If another worker
    has taken some of them over, nothing is written and the others go back to their queue.

    Attributes:
        tags: the deliveries.
        writes: the messages.
        is_untried: the delivery is a suspect whose trial has not begun, and stays a suspect.
    """

    tags: Sequence[Any]
    writes: Sequence[Write]
    is_untried: bool = False


@dataclass(slots=True)
class Settlement:
    """What to do on the broker.

    Attributes:
        replacements: each is carried out in one step where the broker can do that.
        done: deliveries whose work is done, to be removed even if another worker has them now.
    """

    replacements: list[Replacement] = field(default_factory=list)
    done: list[Any] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.replacements or self.done)

    def add(self, other: Settlement) -> None:
        """Carry ``other`` out as well."""
        self.replacements += other.replacements
        self.done += other.done

    @property
    def due(self) -> int | None:
        """When the first of the messages that it schedules is due, unix milliseconds."""
        found = (write.due for one in self.replacements for write in one.writes)
        return min((due for due in found if due is not None), default=None)

    def replace(self, tag: Any, write: Write) -> None:
        """Let ``write`` take the place of one delivery."""
        self.replacements.append(Replacement((tag,), (write,)))


def settled_tags(settlement: Settlement) -> Iterator[Any]:
    """The deliveries that a settlement ends."""
    yield from settlement.done
    for replacement in settlement.replacements:
        yield from replacement.tags


def settlement_of(delivery: Delivery, outcome: Outcome, now: float) -> Settlement:
    """The operations for one delivery.

    Args:
        outcome: of the whole delivery; a batch's ``part_outcomes`` go before it.
        now: unix time in seconds.
    """
    settlement = Settlement()
    if not isinstance(delivery, Batch):
        _settle_one(settlement, delivery, outcome, delivery.attempt, now)
    elif isinstance(outcome, Done) and delivery.part_outcomes is None:
        whole = [delivery] if delivery.was_stored else delivery.parts
        settlement.done += [part.tag for part in whole]
    elif isinstance(outcome, Retry | Defer) and delivery.part_outcomes is None:
        settlement.replacements.append(_frozen(delivery, outcome, now))
    else:
        _settle_parts(settlement, delivery, outcome, now)
    return settlement


def _settle_one(
    settlement: Settlement, delivery: Delivery, outcome: Outcome, attempt: int, now: float
) -> None:
    write = _write(delivery, outcome, attempt, now)
    if write is None:
        settlement.done.append(delivery.tag)
    else:
        settlement.replace(delivery.tag, write)


def _settle_parts(settlement: Settlement, batch: Batch, outcome: Outcome, now: float) -> None:
    outcomes = batch.part_outcomes or [outcome] * len(batch.parts)
    parts = list(zip(batch.parts, outcomes, strict=True))
    if not batch.was_stored:
        for part, of_part in parts:
            _settle_one(settlement, part, of_part, part.attempt, now)
        return
    # The parts are no deliveries of their own: the failed parts take the place of the batch.
    writes = [_write(part, of_part, batch.attempt, now) for part, of_part in parts]
    failed = [write for write in writes if write is not None]
    if failed:
        settlement.replacements.append(Replacement((batch.tag,), failed))
    else:
        settlement.done.append(batch.tag)


def _write(delivery: Delivery, outcome: Outcome, attempt: int, now: float) -> Write | None:
    """The message to write in place of a delivery or a part of a batch; None if it is done."""
    message, is_part = delivery.message, delivery.tag is None
    match outcome:
        case Done():
            return None
        case Retry(after=after, failure=failure):
            message = message.copy(options={RETRIES: attempt, FAILURE: failure.to_json()})
            return _scheduled(message, now, after, keeps_id=not is_part)
        case Defer(after=after):
            return _scheduled(message, now, after, keeps_id=not is_part)
        case Dead(failure=failure):
            message = buried(message, failure)
            return Write(message.message_id, encode(message), keeps_id=not is_part)


def _frozen(batch: Batch, outcome: Retry | Defer, now: float) -> Replacement:
    """A batch that is tried again stays as it is: same parts, same order."""
    options: dict[str, Any] = {}
    if isinstance(outcome, Retry):
        options = {RETRIES: batch.attempt, FAILURE: outcome.failure.to_json()}
    message = encode_batch(batch, options)
    if batch.was_stored:
        return Replacement((batch.tag,), (_scheduled(message, now, outcome.after, keeps_id=True),))
    priorities = [priority_in(part.options) for part in batch.parts if part.options]
    highest = max((one for one in priorities if one is not None), default=None)
    if highest is not None:
        message = message.copy(options={"broker_priority": highest})
    message = message.copy(message_id=f"batch-{uuid4()}")
    write = _scheduled(message, now, outcome.after, keeps_id=False)
    return Replacement([part.tag for part in batch.parts], (write,))


def _scheduled(message: Message[Any], now: float, after: timedelta, *, keeps_id: bool) -> Write:
    return rescheduled(message, to_millis(now + after.total_seconds()), keeps_id=keeps_id)


def rescheduled(message: Message[Any], due: int, *, keeps_id: bool = True) -> Write:
    """The message, to be delivered at ``due`` (unix milliseconds)."""
    priority = priority_in(message.options)
    return Write(message.message_id, encode(message), due, priority, keeps_id=keeps_id)


def buried(message: Message[Any], failure: Failure) -> Message[Any]:
    """The message as a dead letter: itself, with the record of why."""
    return message.copy(options={FAILURE: failure.to_json()})
