"""Interface to inspect, replay and delete dead letters, the same for every broker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Literal, TypeAlias

from .contract import BrokerContract
from .dead_places import place_of, sorted_letters
from .entries import Entry, QueueCounts
from .filters import DeadFilter, Extent, Which
from .queue_names import is_queue_name
from .saved_letters import SavedLetter
from .steps import Progress, most_per_step, run_steps

Action: TypeAlias = Literal["replay", "delete"]


class DeadLetterInspector(ABC):
    """Inspects, replays and deletes dead letters.

    ``queue=None`` means every queue of :meth:`queues`. An unknown queue has no dead letters.

    Attributes:
        reads_newest_first: whether :meth:`recent_dead` looks at the newest dead letters, if it
            does not look at all.
    """

    reads_newest_first: ClassVar[bool] = False
    _may_exist: Callable[[str], bool] = staticmethod(is_queue_name)

    def __init__(self, broker: BrokerContract) -> None:
        self._broker = broker

    @abstractmethod
    def queues(self) -> list[str]:
        """Names of the queues."""

    @abstractmethod
    def counts(self, queue: str) -> QueueCounts:
        """Count the messages of a queue in each state."""

    def counts_of(self, queues: Sequence[str]) -> list[QueueCounts]:
        """Count the messages of several queues, in the order given.

        On Redis, two round trips for all queues together.
        """
        return [self.counts(queue) for queue in queues]

    @abstractmethod
    def dead_letters(
        self, which: DeadFilter, *, limit: int | None = 100, extent: Extent | None = None
    ) -> Iterator[Entry]:
        """Yield the dead letters that match, queue by queue, the oldest first.

        RabbitMQ hides dead letters while they are read. So of a long queue only the oldest are
        read, as many as it delivers in 0.4 s, unless ``extent.whole_queues`` is set.

        Args:
            limit: maximum number to yield; None: no limit.
            extent: how many dead letters to look at; it is updated during the iteration.
        """

    def recent_dead(
        self, which: DeadFilter, *, extent: Extent | None = None, cursor: str | None = None
    ) -> Iterator[Entry]:
        """Yield the dead letters that match, of all queues together, the newest first.

        Redis looks at the newest dead letters. RabbitMQ delivers the oldest of a queue first, so
        these are looked at, in equal parts for each queue; of them, the newest are yielded first.

        Args:
            extent: how many dead letters to look at, after ``cursor``; it is updated during the
                iteration.
            cursor: ``extent.last.cursor`` of an earlier call; goes on after that dead letter.

        Raises:
            UnknownCursor: the cursor is malformed.
        """
        counts = self.counts_of(self._queues(which.queue))

        def read(queue: str, part: Extent) -> Iterator[Entry]:
            return self.dead_letters(replace(which, queue=queue), limit=None, extent=part)

        yield from sorted_letters(counts, read, extent or Extent(), place_of(cursor))

    @abstractmethod
    def newest_dead(self, queue: str, *, limit: int = 10) -> list[Entry]:
        """Return the newest dead letters of a queue, the newest first; at most 50.

        Raises:
            NotAvailable: this broker would have to read too many older dead letters.
        """

    @abstractmethod
    def dead_letter(self, queue: str, id: str) -> Entry | None:
        """Return a dead letter by its id; None if there is none."""

    @abstractmethod
    def dead_ids(
        self, prefix: str, queue: str | None = None, *, limit: int = 10
    ) -> list[tuple[str, str]]:
        """Return queue and id of the dead letters whose id begins with ``prefix``.

        If one of these ids equals ``prefix``, only that id is returned.
        """

    def ids(
        self,
        prefix: str,
        queue: str | None = None,
        *,
        limit: int = 10,
        extent: Extent | None = None,
    ) -> list[tuple[str, str]]:
        """Return queue and id of the messages in any state whose id begins with ``prefix``.

        If one of these ids equals ``prefix``, only that id is returned. Where the broker lists
        dead letters only, only these are searched.

        Args:
            extent: how many messages to look at; it is updated. The broker in memory looks at
                all. Where only dead letters are searched, they are read as by
                :meth:`dead_letters`.
        """
        return self.dead_ids(prefix, queue, limit=limit)

    def replay(
        self,
        which: Which,
        *,
        queue: str | None = None,
        dry_run: bool = False,
        progress: Progress = lambda _count: None,
        rate: float | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        extent: Extent | None = None,
    ) -> int:
        """Put dead letters back on their queues, with no attempts; return their number.

        Works in steps. Between two steps it can be stopped, and calling it again goes on with the
        dead letters that are left. A process that is killed during a step on RabbitMQ may leave
        some hundred messages on both queues; on Redis none.

        A message that is dead-lettered again during the call is not replayed twice.

        Args:
            which: a filter, or ids.
            queue: the queue of the ids.
            dry_run: only count.
            progress: called with the number of dead letters so far.
            rate: maximum number in a second; None: no limit.
            should_stop: asked before each step, and while waiting for ``rate``.
            extent: for ``dry_run``: whether all dead letters were counted.
        """
        if dry_run:
            return self._count(which, queue, extent)
        most = most_per_step(rate)
        steps = self._change("replay", which, queue, most)
        return run_steps(steps, progress, rate=rate, should_stop=should_stop)

    def delete_dead(
        self,
        which: Which,
        *,
        queue: str | None = None,
        dry_run: bool = False,
        progress: Progress = lambda _count: None,
        rate: float | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        extent: Extent | None = None,
    ) -> int:
        """Delete dead letters; return their number. Arguments and steps as of :meth:`replay`."""
        if dry_run:
            return self._count(which, queue, extent)
        most = most_per_step(rate)
        steps = self._change("delete", which, queue, most)
        return run_steps(steps, progress, rate=rate, should_stop=should_stop)

    @abstractmethod
    def add_dead(
        self,
        queue: str,
        letters: Iterable[SavedLetter],
        *,
        progress: Progress = lambda _count: None,
    ) -> int:
        """Add saved dead letters to a queue; return the number that was added.

        A dead letter is left out if a message of the queue has its id: on Redis in any state, on
        RabbitMQ a dead letter. So a call can be repeated.

        Args:
            progress: called with the number of letters so far, added or left out.

        Raises:
            NotAvailable: the queue has too many dead letters to compare ids.
        """

    @abstractmethod
    def _change(
        self, action: Action, which: Which, queue: str | None, most: int | None
    ) -> Iterator[int]:
        """Replay or delete dead letters in steps; yield the number of each step.

        Args:
            most: maximum number in a step. The caller may then wait after each step.
        """

    def _count(self, which: Which, queue: str | None, extent: Extent | None) -> int:
        """Count the dead letters that :meth:`_change` would change."""
        if not isinstance(which, DeadFilter):
            return self._count_ids(which, queue)
        extent = extent or Extent()
        if which == DeadFilter(which.queue) and extent.at_most is None:
            found = [self._counts_now(name) for name in self._queues(which.queue)]
            count = sum(each.dead for each in found)
            extent.looked_at += count
            extent.is_complete &= not any(each.dead_is_lower_bound for each in found)
            return count
        return sum(1 for _ in self.dead_letters(which, limit=None, extent=extent))

    def _counts_now(self, queue: str) -> QueueCounts:
        """Count the messages of a queue; may wait until the number of dead letters is exact."""
        return self.counts(queue)

    @abstractmethod
    def _count_ids(self, ids: Collection[str], queue: str | None) -> int:
        """Count the dead letters with these ids."""

    def _queues(self, queue: str | None) -> list[str]:
        names = self.queues() if queue is None else [queue]
        return [name for name in names if name in self._broker.queues or self._may_exist(name)]
