"""Turns an outcome into a settlement: the operations that end a delivery on the broker.

Pure functions, the same for every broker. A message that is done is removed. A message that is
retried, deferred or dead-lettered is replaced: the new message is written and the old message is
removed. Redis does both in one Lua call; RabbitMQ writes first and removes last, so that a crash
may repeat a message but loses none.

If another worker has taken a message over, nothing replaces it here. On Redis, a message that is
done is removed all the same.
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
from ..core.past_attempts import MOST_BYTES, MOST_BYTES_OF_BATCH, PastAttempt, appended
from ..middleware.delivery import (
    ATTEMPT_HISTORY,
    DUE,
    FAILURE,
    PREVIOUS_ATTEMPT,
    REDELIVERED,
    REQUEUED,
    RETRIES,
    Batch,
    Delivery,
)
from .attempt_history import records_in
from .envelope import encode, encode_batch, priority_in

#: Bytes that records of attempts need at least; parts of a batch that would get less get none.
_SHORTEST_HISTORY = 200


@dataclass(frozen=True, slots=True)
class Write:
    """A message to write.

    Attributes:
        body: the encoded message.
        due: unix milliseconds at which it is delivered; None for a dead letter.
        priority: 0 to 9; None for no priority.
        failure: why a body that cannot be decoded is dead-lettered. A body that can be decoded
            contains its failure.
        keeps_id: whether it keeps the id by which the broker knows the delivery it replaces.
    """

    message_id: str
    body: bytes
    due: int | None = None
    priority: int | None = None
    failure: Failure | None = None
    keeps_id: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Replacement:
    """Messages that replace deliveries in flight.

    Applied only while all of these deliveries are in flight for this worker. If another worker
    has taken over some deliveries, nothing is written and the other deliveries are requeued.

    Attributes:
        tags: the tags of the deliveries.
        writes: the messages to write.
        stays_suspect: whether the delivery is a suspect whose quarantine run is not counted yet.
    """

    tags: Sequence[Any]
    writes: Sequence[Write]
    stays_suspect: bool = False


@dataclass(slots=True)
class Settlement:
    """The operations on the broker that end deliveries.

    Attributes:
        replacements: on Redis each is one atomic step.
        done: the tags of deliveries to remove; on Redis, even if another worker has taken them
            over.
    """

    replacements: list[Replacement] = field(default_factory=list)
    done: list[Any] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.replacements or self.done)

    def add(self, other: Settlement) -> None:
        """Add the operations of ``other``."""
        self.replacements += other.replacements
        self.done += other.done

    @property
    def due(self) -> int | None:
        """Earliest due time of the messages to write, unix milliseconds; None without any."""
        times = (write.due for replacement in self.replacements for write in replacement.writes)
        return min((due for due in times if due is not None), default=None)

    def replace(self, tag: Any, write: Write) -> None:
        """Replace one delivery by ``write``."""
        self.replacements.append(Replacement((tag,), (write,)))


def settled_tags(settlement: Settlement) -> Iterator[Any]:
    """Yield the tags of the deliveries that a settlement ends."""
    yield from settlement.done
    for replacement in settlement.replacements:
        yield from replacement.tags


def settlement_of(delivery: Delivery, outcome: Outcome, now: float) -> Settlement:
    """Return the operations that settle one delivery.

    Args:
        outcome: of the whole delivery; a batch's ``part_outcomes`` take precedence.
        now: unix time in seconds.
    """
    settlement = Settlement()
    if not isinstance(delivery, Batch):
        _settle_delivery(settlement, delivery, outcome, now)
    elif isinstance(outcome, Done) and delivery.part_outcomes is None:
        whole = [delivery] if delivery.was_stored else delivery.parts
        settlement.done += [part.tag for part in whole]
    elif isinstance(outcome, Retry | Defer) and delivery.part_outcomes is None:
        settlement.replacements.append(_freeze(delivery, outcome, now))
    else:
        _settle_parts(settlement, delivery, outcome, now)
    return settlement


def _settle_delivery(
    settlement: Settlement,
    delivery: Delivery,
    outcome: Outcome,
    now: float,
    batch: Batch | None = None,
) -> None:
    write = _write(delivery, outcome, delivery.attempt, now, batch)
    if write is None:
        settlement.done.append(delivery.tag)
    else:
        settlement.replace(delivery.tag, write)


def _settle_parts(settlement: Settlement, batch: Batch, outcome: Outcome, now: float) -> None:
    outcomes = batch.part_outcomes or [outcome] * len(batch.parts)
    parts = list(zip(batch.parts, outcomes, strict=True))
    if not batch.was_stored:
        for part, part_outcome in parts:
            _settle_delivery(settlement, part, part_outcome, now, batch)
        return
    # Its parts are not deliveries: the messages of the failed parts replace the batch.
    for part in batch.parts:
        part.is_redelivered |= batch.is_redelivered
    writes = [_write(part, part_outcome, batch.attempt, now, batch) for part, part_outcome in parts]
    failed = [write for write in writes if write is not None]
    if failed:
        settlement.replacements.append(Replacement((batch.tag,), failed))
    else:
        settlement.done.append(batch.tag)


def _write(
    delivery: Delivery, outcome: Outcome, attempt: int, now: float, batch: Batch | None
) -> Write | None:
    """Return the message that replaces a delivery or a part of a batch; None if it is done."""
    message, is_part = delivery.message, delivery.tag is None
    if isinstance(outcome, Done):
        return None
    options = _history(delivery, outcome, attempt, now, batch)
    match outcome:
        case Retry(after=after, failure=failure):
            message = message.copy(options=options | _counted(attempt, failure, now))
            return _scheduled(message, now, after, keeps_id=not is_part)
        case Defer(after=after):
            if delivery.is_redelivered:  # the new message is not, but its job may have run
                options[REDELIVERED] = True
            return _scheduled(message.copy(options=options), now, after, keeps_id=not is_part)
        case Dead(failure=failure):
            message = as_dead_letter(message.copy(options=options), failure)
            return Write(message.message_id, encode(message), keeps_id=not is_part)


def _history(
    delivery: Delivery,
    outcome: Retry | Defer | Dead,
    attempt: int,
    now: float,
    batch: Batch | None = None,
) -> dict[str, Any]:
    """Return the options with the history of a message's attempts, this attempt included.

    Args:
        batch: the batch that the message was a part of. Attempts of a stored batch were attempts
            of all its parts. In a large batch each part keeps fewer records.
    """
    whole, most_bytes, earlier = batch or delivery, MOST_BYTES, records_in(delivery.message)
    found: dict[str, Any] = {}
    if whole.attempt_traceparent is not None and not isinstance(outcome, Defer):
        found[PREVIOUS_ATTEMPT] = whole.attempt_traceparent
    if batch is not None:
        most_bytes = min(most_bytes, MOST_BYTES_OF_BATCH // len(batch.parts))
        if most_bytes < _SHORTEST_HISTORY:
            return found
        if batch.was_stored:
            earlier = [*earlier, *records_in(batch.message)]
    ended = PastAttempt.of(
        outcome,
        attempt=attempt,
        now=now,
        took=whole.took,
        is_redelivered=delivery.is_redelivered or whole.is_redelivered,
    )
    found[ATTEMPT_HISTORY] = appended(earlier, ended, most_bytes=most_bytes)
    return found


def _freeze(batch: Batch, outcome: Retry | Defer, now: float) -> Replacement:
    """Replace a batch by one message that keeps its parts and their order."""
    options = _history(batch, outcome, batch.attempt, now)
    if isinstance(outcome, Retry):
        options |= _counted(batch.attempt, outcome.failure, now)
    message = encode_batch(batch, options)
    if batch.was_stored:
        return Replacement((batch.tag,), (_scheduled(message, now, outcome.after, keeps_id=True),))
    priorities = [priority_in(part.options) for part in batch.parts if part.options]
    highest = max((priority for priority in priorities if priority is not None), default=None)
    if highest is not None:
        message = message.copy(options={"broker_priority": highest})
    message = message.copy(message_id=f"batch-{uuid4()}")
    write = _scheduled(message, now, outcome.after, keeps_id=False)
    return Replacement([part.tag for part in batch.parts], (write,))


def _counted(attempt: int, failure: Failure, now: float) -> dict[str, Any]:
    """Return the options of a message that is retried after ``attempt``."""
    return {RETRIES: attempt, REQUEUED: to_millis(now), FAILURE: failure.to_json()}


def _scheduled(message: Message[Any], now: float, after: timedelta, *, keeps_id: bool) -> Write:
    return rescheduled(message, to_millis(now + after.total_seconds()), keeps_id=keeps_id)


def rescheduled(message: Message[Any], due: int, *, keeps_id: bool = True) -> Write:
    """Schedule a message for ``due`` (unix milliseconds)."""
    priority = priority_in(message.options)
    message = message.copy(options={DUE: due})
    return Write(message.message_id, encode(message), due, priority, keeps_id=keeps_id)


def as_dead_letter(message: Message[Any], failure: Failure) -> Message[Any]:
    """Return the message as a dead letter, with the failure in its options."""
    return message.copy(options={FAILURE: failure.to_json()})
