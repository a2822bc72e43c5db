"""The queues of the in-memory broker.

The callers of every method hold :attr:`MemoryQueues.changed`.

A stored message is its own tag: a consumer settles a delivery by the object that it took.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from heapq import heapify, heappop, heappush
from itertools import count
from threading import Condition, RLock

from ..brokers.envelope import encode, wrap_undecodable
from ..brokers.inspection import State
from ..brokers.settlement import Settlement, Write
from ..core.clock import Clock, to_millis


@dataclass(eq=False, slots=True)
class Stored:
    """A message on its queue.

    Attributes:
        id: unique among the messages that are not dead, and among the dead letters.
        priority: 0 to 9; the highest is delivered first.
        place: messages of one priority are delivered in the order of their places.
        due: unix milliseconds of a scheduled message.
        died: unix seconds of a dead letter.
        is_given: whether Dramatiq or the async runner has it; False while it is only collected
            for a batch.
        cause: the exception of a dead letter, if its attempt raised one.
    """

    id: str
    body: bytes
    priority: int = 0
    place: int = 0
    state: State = State.WAITING
    due: int = 0
    died: float = 0.0
    is_given: bool = False
    cause: BaseException | None = None


@dataclass(slots=True)
class MemoryQueue:
    """One queue.

    Attributes:
        live: the messages that are not dead, by id.
        waiting: heap of (negative priority, place, message).
        scheduled: heap of (due, place, message).
        in_flight: the messages that a consumer has taken and not settled.
        dead: the dead letters by id, the oldest first.
    """

    name: str
    clock: Clock
    retention: timedelta
    places: count[int] = field(default_factory=count)
    live: dict[str, Stored] = field(default_factory=dict)
    waiting: list[tuple[int, int, Stored]] = field(default_factory=list)
    scheduled: list[tuple[int, int, Stored]] = field(default_factory=list)
    in_flight: set[Stored] = field(default_factory=set)
    is_paused: bool = False
    _dead: dict[str, Stored] = field(default_factory=dict)

    @property
    def dead(self) -> dict[str, Stored]:
        """The dead letters, without those that are older than the retention."""
        oldest = self.clock.time() - self.retention.total_seconds()
        for letter in [one for one in self._dead.values() if one.died < oldest]:
            del self._dead[letter.id]
        return self._dead

    def add(self, id: str, body: bytes, due: int | None, priority: int | None) -> None:
        """Add a message, under another id if a live message has the id."""
        stored = Stored(_free(id, self.live, self.places), body, priority or 0)
        self.live[stored.id] = stored
        if due is None:
            self.push(stored)
        else:
            stored.state, stored.due = State.SCHEDULED, due
            heappush(self.scheduled, (due, next(self.places), stored))

    def push(self, stored: Stored) -> None:
        """Put a message at the end of its priority."""
        stored.place = next(self.places)
        self._push_again(stored)

    def requeue(self, stored: Stored) -> None:
        """Put a message in flight back on the queue, at its old place."""
        if stored in self.in_flight:
            self.in_flight.discard(stored)
            stored.is_given = False
            self._push_again(stored)

    def _push_again(self, stored: Stored) -> None:
        stored.state = State.WAITING
        heappush(self.waiting, (-stored.priority, stored.place, stored))

    def move_due(self) -> None:
        """Move the scheduled messages that are due to the waiting messages."""
        now = to_millis(self.clock.time())
        # Not at the same millisecond: due times are rounded down, and no message may be early.
        while self.scheduled and self.scheduled[0][0] < now:
            self.push(heappop(self.scheduled)[2])

    def take(self) -> Stored | None:
        """Take the next message; None if the queue is paused or no message waits."""
        self.move_due()
        if self.is_paused or not self.waiting:
            return None
        stored = heappop(self.waiting)[2]
        stored.state = State.IN_FLIGHT
        self.in_flight.add(stored)
        return stored

    def run_now(self, stored: Stored) -> None:
        """Make a scheduled message due."""
        self.scheduled = [entry for entry in self.scheduled if entry[2] is not stored]
        heapify(self.scheduled)
        self.push(stored)

    def drop(self, stored: Stored) -> None:
        """Delete a waiting or scheduled message."""
        del self.live[stored.id]
        self.waiting = [entry for entry in self.waiting if entry[2] is not stored]
        self.scheduled = [entry for entry in self.scheduled if entry[2] is not stored]
        heapify(self.waiting)
        heapify(self.scheduled)

    def purge(self) -> int:
        """Delete the waiting and scheduled messages; return their number."""
        dropped = [entry[2] for entry in (*self.waiting, *self.scheduled)]
        for stored in dropped:
            del self.live[stored.id]
        self.waiting, self.scheduled = [], []
        return len(dropped)

    def settle(self, settlement: Settlement, causes: Mapping[str, BaseException | None]) -> None:
        """Apply a settlement.

        Args:
            causes: the exceptions of the attempts, by message id.
        """
        for replacement in settlement.replacements:
            ours = [tag for tag in replacement.tags if tag in self.in_flight]
            if len(ours) < len(replacement.tags):
                for tag in ours:
                    self.requeue(tag)
                continue
            self._remove(replacement.tags)
            for write in replacement.writes:
                id = replacement.tags[0].id if write.keeps_id else write.message_id
                self._write(id, write, causes.get(write.message_id))
        self._remove(settlement.done)

    def _remove(self, tags: Iterable[Stored]) -> None:
        for tag in tags:
            if tag in self.in_flight:
                self.in_flight.discard(tag)
                del self.live[tag.id]

    def _write(self, id: str, write: Write, cause: BaseException | None) -> None:
        if write.due is not None:
            self.add(id, write.body, write.due, write.priority)
            return
        body = write.body
        if write.failure is not None:
            message = wrap_undecodable(
                body, queue_name=self.name, message_id=id, failure=write.failure
            )
            body = encode(message)
        self.add_dead(id, body, cause)

    def add_dead(self, id: str, body: bytes, cause: BaseException | None = None) -> None:
        """Add a dead letter, under another id if a dead letter has the id."""
        id = _free(id, self._dead, self.places)
        letter = Stored(id, body, place=next(self.places), state=State.DEAD, cause=cause)
        letter.died = self.clock.time()
        self._dead[id] = letter

    def restore_dead(self, id: str, body: bytes, died: float | None) -> bool:
        """Add a dead letter, unless a message has the id; return whether it was added.

        Args:
            died: Unix seconds; None: now.
        """
        if id in self.live or id in self.dead:
            return False
        self.add_dead(id, body)
        now = self.clock.time()
        oldest = now - self.retention.total_seconds()
        self._dead[id].died = died if died is not None and oldest <= died <= now else now
        return True


class MemoryQueues:
    """All queues of one broker.

    Attributes:
        changed: the lock of all queues, notified after each change.
    """

    def __init__(self, clock: Clock, retention: timedelta) -> None:
        self.changed = Condition(RLock())
        self._clock = clock
        self._retention = retention
        self._queues: dict[str, MemoryQueue] = {}

    def __getitem__(self, name: str) -> MemoryQueue:
        if name not in self._queues:
            self._queues[name] = MemoryQueue(name, self._clock, self._retention)
        return self._queues[name]

    def __iter__(self) -> Iterator[MemoryQueue]:
        return iter(list(self._queues.values()))

    def clear(self) -> None:
        """Delete every message in every state, and end every pause."""
        with self.changed:
            self._queues.clear()
            self.changed.notify_all()

    def wake(self) -> None:
        """Wake every waiting thread, so that it checks the queues again."""
        with self.changed:
            self.changed.notify_all()


def _free(id: str, taken: Mapping[str, Stored], numbers: count[int]) -> str:
    return f"{id}~{next(numbers)}" if id in taken else id
