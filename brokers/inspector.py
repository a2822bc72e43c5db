"""Interface to inspect and manage queues, the same for every broker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

from .contract import BrokerContract
from .inspection import DeadFilter, Entry, NotAvailable, Page, QueueCounts, State, Which, WorkerInfo

#: Called during a long operation with the number of messages processed so far.
Progress: TypeAlias = Callable[[int], object]

Action: TypeAlias = Literal["replay", "delete"]


def silent(_count: int) -> None:
    """Report no progress."""


class Inspector(ABC):
    """Inspects queues without losing or reordering messages; pauses, purges and replays.

    ``queue=None`` means every queue of :meth:`queues`.
    """

    def __init__(self, broker: BrokerContract) -> None:
        self._broker = broker

    # -- queues ------------------------------------------------------------------------

    def queues(self) -> list[str]:
        """Names of the queues declared in this process, and of :meth:`other_queues` if the
        broker can list its queues."""
        try:
            others = self.other_queues()
        except NotAvailable:
            others = set()
        return sorted(self._broker.queues | others)

    def other_queues(self) -> set[str]:
        """Names of the queues that the broker has and this process does not declare.

        Redis has a queue while it has a message or is paused. A broker inside the process has
        none.

        Raises:
            NotAvailable: the broker does not list its queues.
        """
        return set()

    def check_listing(self) -> None:
        """Check that :meth:`other_queues` works.

        Raises:
            NotAvailable: the broker does not list its queues.
        """
        self.other_queues()

    def has_queue(self, name: str) -> bool:
        """Whether a queue is declared in this process or exists on the broker."""
        return name in self._broker.queues or name in self.queues()

    # -- looking -----------------------------------------------------------------------

    @abstractmethod
    def counts(self, queue: str) -> QueueCounts:
        """Count the messages of a queue in each state."""

    @abstractmethod
    def browse(
        self, queue: str, state: State, *, limit: int = 50, cursor: str | None = None
    ) -> Page:
        """Return one page of the messages in a state.

        Waiting messages are in the order of delivery, scheduled messages by due time, dead letters
        by time of death. A page may have fewer than ``limit`` entries without being the last page.
        On Redis, no message is skipped or repeated because others come or go between two pages.

        Args:
            cursor: the cursor of the previous page; None for the first page.

        Raises:
            NotAvailable: this broker cannot list messages in this state.
            UnknownCursor: the cursor belongs to another query.
        """

    @abstractmethod
    def find(self, id: str, queue: str | None = None) -> Entry | None:
        """Find a message in any state by its id; None if there is none.

        Raises:
            NotAvailable: no dead letter has the id, and this broker lists no other messages.
        """

    @abstractmethod
    def run_now(self, queue: str, id: str) -> bool:
        """Make a scheduled message due now; False if no scheduled message has the id.

        Raises:
            NotAvailable
        """

    @abstractmethod
    def workers(self) -> list[WorkerInfo]:
        """List the worker processes; on Redis, the latest heartbeat first.

        Raises:
            NotAvailable
        """

    # -- pausing, purging ----------------------------------------------------------------

    @abstractmethod
    def pause(self, queue: str) -> None:
        """Stop all workers from fetching messages of a queue; running messages are finished."""

    @abstractmethod
    def resume(self, queue: str) -> None:
        """Let workers fetch messages of a paused queue again."""

    @abstractmethod
    def is_paused(self, queue: str) -> bool:
        """Whether a queue is paused."""

    def purge(self, queue: str, *, dry_run: bool = False) -> int:
        """Delete the waiting messages and, on Redis, the scheduled messages; keep dead letters.

        Args:
            dry_run: only count.

        Returns:
            Number of messages that were deleted, or would be.
        """
        if not dry_run:
            return self._broker.drop_waiting(queue)
        counts = self.counts(queue)
        return counts.waiting + (counts.scheduled or 0)

    # -- dead letters ----------------------------------------------------------------------

    @abstractmethod
    def dead_letters(self, which: DeadFilter, *, limit: int = 100) -> Iterator[Entry]:
        """Yield the dead letters that match, queue by queue, the oldest first."""

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
        self, prefix: str, queue: str | None = None, *, limit: int = 10
    ) -> list[tuple[str, str]]:
        """Return queue and id of the messages in any state whose id begins with ``prefix``.

        If one of these ids equals ``prefix``, only that id is returned. Where the broker lists
        dead letters only, only these are searched.
        """
        return self.dead_ids(prefix, queue, limit=limit)

    def replay(
        self,
        which: Which,
        *,
        queue: str | None = None,
        dry_run: bool = False,
        progress: Progress = silent,
    ) -> int:
        """Put dead letters back on their queues, with no attempts; return their number.

        A message that is dead-lettered again during the call is not replayed twice.

        Args:
            which: a filter, or ids.
            queue: the queue of the ids.
            dry_run: only count.
            progress: called with the number of dead letters so far.
        """
        return _total(self._change("replay", which, queue, dry_run), progress)

    def delete_dead(
        self,
        which: Which,
        *,
        queue: str | None = None,
        dry_run: bool = False,
        progress: Progress = silent,
    ) -> int:
        """Delete dead letters; return their number. Arguments as of :meth:`replay`."""
        return _total(self._change("delete", which, queue, dry_run), progress)

    @abstractmethod
    def _change(
        self, action: Action, which: Which, queue: str | None, dry_run: bool
    ) -> Iterator[int]:
        """Replay or delete dead letters in steps, or only count them; yield their numbers."""

    def _queues(self, queue: str | None) -> list[str]:
        return [queue] if queue is not None else self.queues()


def _total(steps: Iterator[int], progress: Progress) -> int:
    count = 0
    for step in steps:
        count += step
        progress(count)
    return count
