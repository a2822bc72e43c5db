"""The messages of one queue that are in flight for this process, and their settlements."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeAlias

from ...middleware.delivery import Batch, Delivery
from ..envelope import encode, wrap_undecodable
from ..errors import BrokerRefused, BrokerUnavailable
from ..retrying import Refused
from ..settlement import Replacement, Settlement, Write, settled_tags
from .commands import MAX_ANSWER_BYTES, QueueCommands

#: Id, body, and number of workers that the message may have killed.
Fetched: TypeAlias = tuple[bytes, bytes, int]

#: Maximum size of undecodable bytes that are stored as JSON together with their failure.
_MAX_QUARANTINED_BYTES = 16 * 1024 * 1024


@dataclass(slots=True)
class Pending:
    """The operations that the next exchange sends.

    Attributes:
        deliveries: the deliveries that ``settlement`` ends.
        requeued: the tags of deliveries to put back on the queue.
        size: number of messages that are no longer in flight after the exchange.
        bytes: number of bytes of their bodies.
    """

    settlement: Settlement = field(default_factory=Settlement)
    deliveries: list[Delivery] = field(default_factory=list)
    requeued: list[bytes] = field(default_factory=list)
    size: int = 0
    bytes: int = 0


class InFlight:
    """The messages of one queue that Redis has in flight for this process.

    It outlives its consumer: after a pause, Dramatiq makes a new consumer, while messages of the
    old consumer may still run.

    The tag of a delivery is the bytes object of its id, compared by identity. Two deliveries of
    one id in one process therefore differ: another worker may have taken the message over and
    requeued it, and this process fetched it again.

    Attributes:
        settlements: appended by other threads for the next exchange; no lock, since the operations
            of a deque are atomic.
        sending: lock held for one round trip; guards the attributes below.
        pending: the operations that the next exchange sends, kept until it succeeds.
        refused: replacements that Redis refused.
        tags: tag of each delivery that this process knows to be in flight, by message id.
        delivered_count: number of messages given to Dramatiq.
        settled_count: number of messages given to Dramatiq and settled.
        bytes: number of bytes of the bodies in this process.
        suspect_is_running: whether a suspect runs; suspects run one at a time.
    """

    def __init__(self, commands: QueueCommands, queue: str) -> None:
        self._commands = commands
        self._queue = queue
        self.settlements: deque[tuple[Settlement, Delivery]] = deque()
        self.sending = Lock()
        self.pending = Pending()
        self.refused: Refused[Replacement] = Refused(commands.clock, queue)
        #: Body by id of messages that are done here, but were taken over by another worker.
        self._taken_over: dict[bytes, bytes] = {}
        self.tags: dict[bytes, bytes] = {}
        #: The subset of ``tags`` that another worker is known to have taken over.
        self._lost: dict[bytes, bytes] = {}
        self.delivered_count = 0
        self.settled_count = 0
        self.bytes = 0
        self.suspect_is_running = False

    @property
    def unsettled(self) -> int:
        """Number of messages given to Dramatiq and not settled."""
        return self.delivered_count - self.settled_count

    def collect(self) -> Pending:
        """Move the settlements to ``pending``; the caller holds ``sending``."""
        pending = self.pending
        while self.settlements:
            settlement, delivery = self.settlements.popleft()
            self._add(pending, settlement)
            pending.deliveries.append(delivery)
            pending.size += delivery.size
            pending.bytes += delivery.raw_size
        return pending

    def exchange(
        self, limit: Callable[[Pending], int], *, is_last: bool = False
    ) -> tuple[int, list[Fetched]]:
        """Send the pending operations and fetch messages; the caller holds ``sending``.

        Args:
            limit: returns the number of messages to fetch, given the pending operations.
            is_last: also retry refused messages that are not due yet.

        Returns:
            Milliseconds until the next scheduled message is due, -1 without any; and the messages.
        """
        pending = self.collect()
        for replacement in self.refused.take_due(is_last=is_last):
            pending.bytes += _size(replacement)
            self._add(pending, Settlement([replacement]))
        wait, fetched, taken_over = self._send(pending, limit(pending))
        self.pending = Pending()
        self.settled_count += pending.size
        self.bytes -= pending.bytes
        self.forget(settled_tags(pending.settlement))
        self.forget(pending.requeued)
        if taken_over:
            self._taken_over |= bodies_of(pending.deliveries, taken_over)
        if self._taken_over:
            # If this raises, the fetched messages are lost here: they have no tags yet, so that
            # the consumer finds them in Redis and requeues them.
            self._commands.remove_done(self._queue, self._taken_over)
            self._taken_over = {}
        self.tags.update((id, id) for id, _, _ in fetched)
        return wait, fetched

    def _send(self, pending: Pending, limit: int) -> tuple[int, list[Fetched], list[bytes]]:
        """Send the pending operations; move the replacements that Redis refuses to ``refused``."""
        settlement = pending.settlement
        try:
            answer = run_exchange(self._commands, self._queue, limit, settlement, pending.requeued)
        except BrokerRefused:
            if not settlement.replacements:
                raise
            # Redis refuses the whole call and does not name the message that it refuses.
            others = Settlement(done=settlement.done)
            taken_over = run_exchange(self._commands, self._queue, 0, others, pending.requeued)[2]
            self._replace_each(settlement.replacements)
            settlement.replacements = []
            return 0, [], taken_over  # the next exchange fetches
        if settlement.replacements:
            self.refused.settled()
        return answer

    def _replace_each(self, replacements: Sequence[Replacement]) -> None:
        refused: list[Replacement] = []
        for index, replacement in enumerate(replacements):
            try:
                run_exchange(self._commands, self._queue, 0, Settlement([replacement]))
            except BrokerRefused as error:
                refused.append(replacement)
                why: BrokerRefused | BrokerUnavailable = error
            except BrokerUnavailable as error:
                refused += replacements[index:]
                why = error
                break
            else:
                self.forget(replacement.tags)
        if refused:
            self.bytes += sum(map(_size, refused))
            self.refused.add(refused, why)

    def requeue_refused(self) -> None:
        """Requeue the messages whose replacement Redis refuses; the caller holds ``sending``."""
        for replacement in self.refused.take_due(is_last=True):
            self.pending.bytes += _size(replacement)
            self.pending.requeued += filter(self.is_current, replacement.tags)

    def is_current(self, tag: bytes) -> bool:
        """Whether the tag is of the latest delivery of its id."""
        return self.tags.get(tag) is tag

    def forget(self, tags: Iterable[bytes]) -> None:
        """Forget deliveries that are no longer in flight for this process."""
        known = self.tags
        for tag in tags:
            if known.get(tag) is tag:
                del known[tag]
                self._lost.pop(tag, None)

    def newly_lost(self, in_flight: Set[bytes]) -> list[bytes]:
        """Return the ids of deliveries that another worker has taken over since the last call.

        Args:
            in_flight: the ids that Redis has in flight for this worker.
        """
        known, lost = self.tags, self._lost
        found = [id for id, tag in known.items() if id not in in_flight and lost.get(id) is not tag]
        lost.update((id, known[id]) for id in found)
        return found

    def _add(self, pending: Pending, settlement: Settlement) -> None:
        """Add the operations of a settlement whose deliveries are the latest of their ids."""
        known = self.tags
        pending.settlement.done += [tag for tag in settlement.done if known.get(tag) is tag]
        for replacement in settlement.replacements:
            current = [tag for tag in replacement.tags if self.is_current(tag)]
            if len(current) == len(replacement.tags):
                pending.settlement.replacements.append(replacement)
            else:
                pending.requeued += current


def run_exchange(
    commands: QueueCommands,
    queue: str,
    limit: int,
    settlement: Settlement,
    requeued: Sequence[bytes] = (),
) -> tuple[int, list[Fetched], list[bytes]]:
    """Settle, requeue and fetch messages in one round trip (``exchange.lua``).

    Args:
        limit: maximum number of messages to fetch.
        requeued: ids of messages to put back on the queue.

    Returns:
        Milliseconds until the next scheduled message is due (-1 without any); the fetched messages;
        and the ids of messages that are done and may have been taken over (for
        :meth:`.commands.QueueCommands.remove_done`).
    """
    args: list[str | bytes | int] = [commands.now(), commands.worker_id, queue]
    args += (limit, MAX_ANSWER_BYTES, len(settlement.replacements))
    for replacement in settlement.replacements:
        tags, writes = replacement.tags, replacement.writes
        args += ("suspect" if replacement.stays_suspect else "", len(tags), *tags, len(writes))
        for write in writes:
            id = tags[0] if write.keeps_id else write.message_id
            due = "" if write.due is None else write.due
            args += (id, due, write.priority or "", _stored_body(write, queue))
    args += [len(settlement.done), *settlement.done, len(requeued), *requeued]
    answer = commands.run("exchange", queue, args, *commands.worker_keys(queue))
    wait, ids, bodies, counts, taken_over = answer
    deaths = [int(count or 0) for count in counts] or [0] * len(ids)
    return wait, list(zip(ids, bodies, deaths, strict=True)), taken_over


def _stored_body(write: Write, queue: str) -> bytes:
    body = write.body
    # Base64 adds a third, which could exceed proto-max-bulk-len. Larger bodies are stored as they
    # are; an inspector decodes them again to find the failure.
    if write.failure is None or len(body) > _MAX_QUARANTINED_BYTES:
        return body
    id, failure = write.message_id, write.failure
    return encode(wrap_undecodable(body, queue_name=queue, message_id=id, failure=failure))


def bodies_of(deliveries: Iterable[Delivery], ids: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return the bodies of some messages as received, by id."""
    raw = {part.tag: part.raw for delivery in deliveries for part in _parts(delivery)}
    return {id: body for id in ids if (body := raw.get(id)) is not None}


def _parts(delivery: Delivery) -> Sequence[Delivery]:
    if isinstance(delivery, Batch) and not delivery.was_stored:
        return delivery.parts
    return [delivery]


def _size(replacement: Replacement) -> int:
    return sum(len(write.body) for write in replacement.writes)
