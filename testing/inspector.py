"""The inspector of queues in memory. Each result is a consistent snapshot."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import islice

from ..brokers.attempt_history import failure_in
from ..brokers.contract import BrokerContract
from ..brokers.envelope import decode_or_wrap
from ..brokers.fields import for_replay, timestamp_in
from ..brokers.inspection import (
    Action,
    DeadFilter,
    Edit,
    Entry,
    Extent,
    Inspector,
    Page,
    Progress,
    QueueCounts,
    SavedLetter,
    State,
    UnknownCursor,
    Which,
    WorkerInfo,
)
from ..core.clock import to_millis
from ..core.failure import worker_name
from .queues import MemoryQueue, MemoryQueues, Stored

#: Place of a message in the order of its state; a cursor is the last place of a page.
_Place = tuple[float, int]

#: Number of dead letters that are replayed or deleted in one step.
_STEP = 500


class MemoryInspector(Inspector):
    """Reads and changes the queues of one broker.

    Args:
        consumed: returns the names of the queues whose messages a worker takes.
    """

    def __init__(
        self, broker: BrokerContract, queues: MemoryQueues, consumed: Callable[[], set[str]]
    ) -> None:
        super().__init__(broker)
        self._memory = queues
        self._consumed = consumed
        self._clock = broker.clock

    # -- looking -----------------------------------------------------------------------

    def other_queues(self) -> set[str]:
        with self._memory.changed:
            used = {queue.name for queue in self._memory if queue.live or queue.dead}
        return (used | self._consumed()) - self._broker.queues

    def ids(
        self,
        prefix: str,
        queue: str | None = None,
        *,
        limit: int = 10,
        extent: Extent | None = None,
    ) -> list[tuple[str, str]]:
        if extent is not None:
            with self._memory.changed:
                queues = [self._memory[name] for name in self._queues(queue)]
                extent.looked_at += sum(len(each.live) + len(each.dead) for each in queues)
        return self._ids(prefix, queue, limit, lambda stored: [*stored.live, *stored.dead])

    def counts(self, queue: str) -> QueueCounts:
        with self._memory.changed:
            found = self._memory[queue]
            found.move_due()
            return QueueCounts(
                queue,
                len(found.waiting),
                len(found.scheduled),
                len(found.in_flight),
                len(found.dead),
                found.is_paused,
                self._oldest_age(found),
            )

    def _oldest_age(self, queue: MemoryQueue) -> timedelta | None:
        first: dict[int, tuple[int, Stored]] = {}
        for priority, place, stored in queue.waiting:
            if priority not in first or place < first[priority][0]:
                first[priority] = (place, stored)
        sent = [stamp for _, stored in first.values() if (stamp := timestamp_in(stored.body))]
        if not sent:
            return None
        return timedelta(milliseconds=max(0, to_millis(self._clock.time()) - min(sent)))

    def browse(
        self, queue: str, state: State, *, limit: int = 50, cursor: str | None = None
    ) -> Page:
        seen = _parse_cursor(state, cursor)
        with self._memory.changed:
            self._memory[queue].move_due()
            every = sorted(_places(self._memory[queue], state), key=lambda entry: entry[0])
        if seen is not None:
            every = [entry for entry in every if entry[0] > seen]
        page = every[:limit]
        more = len(every) > limit and page
        last = f"{state[0]},{page[-1][0][0]},{page[-1][0][1]}" if more else None
        return Page([self._entry(queue, stored) for _, stored in page], last)

    def find(self, id: str, queue: str | None = None) -> Entry | None:
        for name in self._queues(queue):
            with self._memory.changed:
                found = self._memory[name]
                found.move_due()
                stored = found.live.get(id) or found.dead.get(id)
            if stored is not None:
                return self._entry(name, stored)
        return None

    def run_now(self, queue: str, id: str) -> bool:
        with self._memory.changed:
            stored = self._memory[queue].live.get(id)
            if stored is None or stored.state is not State.SCHEDULED:
                return False
            self._memory[queue].run_now(stored)
            self._memory.changed.notify_all()
            return True

    def cancel(self, queue: str, id: str) -> bool:
        with self._memory.changed:
            stored = self._memory[queue].live.get(id)
            if stored is None or stored.state is State.IN_FLIGHT:
                return False
            self._memory[queue].drop(stored)
            return True

    def _edit(
        self, queue: str, edits: Sequence[tuple[Entry, Edit]]
    ) -> Sequence[tuple[Entry, Edit]]:
        with self._memory.changed:
            return [each for each in edits if self._edit_one(self._memory[queue], *each)]

    def _edit_one(self, queue: MemoryQueue, entry: Entry, edit: Edit) -> bool:
        messages = queue.dead if entry.state is State.DEAD else queue.live
        stored = messages.get(entry.id)
        if stored is None or (stored.state, stored.body) != (entry.state, entry.raw):
            return False
        if isinstance(edit, bytes):
            stored.body = edit
        elif entry.state is State.DEAD:
            del messages[entry.id]
        else:
            queue.drop(stored)
        return True

    def listed_workers(self) -> list[WorkerInfo]:
        queues = sorted(self._consumed())
        now, name = self._clock.time(), worker_name()
        return [WorkerInfo(name, now, tuple(queues), name)] if queues else []

    # -- pausing -----------------------------------------------------------------------

    def pause(self, queue: str) -> None:
        with self._memory.changed:
            self._memory[queue].is_paused = True

    def resume(self, queue: str) -> None:
        with self._memory.changed:
            self._memory[queue].is_paused = False
            self._memory.changed.notify_all()

    def is_paused(self, queue: str) -> bool:
        with self._memory.changed:
            return self._memory[queue].is_paused

    # -- dead letters ------------------------------------------------------------------

    def dead_letters(
        self, which: DeadFilter, *, limit: int | None = 100, extent: Extent | None = None
    ) -> Iterator[Entry]:
        extent = extent or Extent()
        yield from islice(filter(which.matches, self._looked_at(which.queue, extent)), limit)

    def _looked_at(self, queue: str | None, extent: Extent) -> Iterator[Entry]:
        for name in self._queues(queue):
            for letter in self._letters(name):
                if not extent.left:
                    extent.is_complete = False
                    return
                extent.looked_at += 1
                yield letter

    def newest_dead(self, queue: str, *, limit: int = 10) -> list[Entry]:
        return self._letters(queue)[::-1][: min(limit, 50)]

    def dead_letter(self, queue: str, id: str) -> Entry | None:
        with self._memory.changed:
            stored = self._memory[queue].dead.get(id)
        return None if stored is None else self._entry(queue, stored)

    def dead_ids(
        self, prefix: str, queue: str | None = None, *, limit: int = 10
    ) -> list[tuple[str, str]]:
        return self._ids(prefix, queue, limit, lambda stored: list(stored.dead))

    def _ids(
        self,
        prefix: str,
        queue: str | None,
        limit: int,
        ids_of: Callable[[MemoryQueue], list[str]],
    ) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        for name in self._queues(queue):
            with self._memory.changed:
                ids = ids_of(self._memory[name])
            if prefix in ids:
                return [(name, prefix)]
            found += [(name, id) for id in ids if id.startswith(prefix)]
        return found[:limit]

    def _change(
        self, action: Action, which: Which, queue: str | None, most: int | None
    ) -> Iterator[int]:
        for name in self._queues(which.queue if isinstance(which, DeadFilter) else queue):
            found = self._matching(name, which)
            size = most or _STEP
            for first in range(0, len(found), size):
                yield self._change_letters(action, name, found[first : first + size])

    def _matching(self, queue: str, which: Which) -> list[Entry]:
        if isinstance(which, DeadFilter):
            return [letter for letter in self._letters(queue) if which.matches(letter)]
        ids = set(which)
        return [letter for letter in self._letters(queue) if letter.id in ids]

    def _change_letters(self, action: Action, queue: str, letters: Sequence[Entry]) -> int:
        count = 0
        with self._memory.changed:
            dead = self._memory[queue].dead
            for letter in letters:
                if dead.pop(letter.id, None) is None:
                    continue  # changed by another thread
                count += 1
                if action == "replay":
                    body, priority = for_replay(letter)
                    self._memory[queue].add(letter.id, body, None, priority)
            self._memory.changed.notify_all()
        return count

    def add_dead(
        self,
        queue: str,
        letters: Iterable[SavedLetter],
        *,
        progress: Progress = lambda _count: None,
    ) -> int:
        added = 0
        for count, letter in enumerate(letters, start=1):
            body = letter.body_with_failure(self._broker.job_types)
            with self._memory.changed:
                added += self._memory[queue].restore_dead(letter.id, body, letter.died)
            progress(count)
        return added

    def _count_ids(self, ids: Collection[str], queue: str | None) -> int:
        return sum(len(self._matching(name, ids)) for name in self._queues(queue))

    def _letters(self, queue: str) -> list[Entry]:
        with self._memory.changed:
            stored = list(self._memory[queue].dead.values())
        return [self._entry(queue, letter) for letter in stored]

    def _entry(self, queue: str, stored: Stored) -> Entry:
        message = decode_or_wrap(
            stored.body,
            queue_name=queue,
            job_types=self._broker.job_types,
            message_id=stored.id,
            now=stored.died or self._clock.time(),
        )
        return Entry(
            queue,
            stored.id,
            stored.state,
            message,
            due=stored.due / 1000 if stored.state is State.SCHEDULED else None,
            worker=worker_name() if stored.state is State.IN_FLIGHT else None,
            failure=failure_in(message),
            died=stored.died if stored.state is State.DEAD else None,
            raw=stored.body,
        )


def _places(queue: MemoryQueue, state: State) -> Sequence[tuple[_Place, Stored]]:
    """The messages in a state, each with its place in the order of that state."""
    match state:
        case State.WAITING:
            return [((rank, place), stored) for rank, place, stored in queue.waiting]
        case State.SCHEDULED:
            return [((due, place), stored) for due, place, stored in queue.scheduled]
        case State.IN_FLIGHT:
            return [((0, stored.place), stored) for stored in queue.in_flight]
        case State.DEAD:
            return [((0, letter.place), letter) for letter in queue.dead.values()]


def _parse_cursor(state: State, cursor: str | None) -> _Place | None:
    if cursor is None:
        return None
    try:
        of_state, first, second = cursor.split(",")
        if of_state == state[0]:
            return int(first), int(second)
    except ValueError:
        pass
    raise UnknownCursor
