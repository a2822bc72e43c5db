"""The questions of an operator, in the same words for each broker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TypeAlias

from .contract import BrokerContract
from .inspection import DeadFilter, Entry, Page, QueueCounts, State, Which, WorkerInfo

#: Told how far a long piece of work is.
Progress: TypeAlias = Callable[[int], object]


def silent(_count: int) -> None:
    """Nobody wants to know."""


class Inspector(ABC):
    """Looks at queues without consuming or reordering them, and at the dead letters' fate.

    A queue of None is every queue that is declared in this process. Where a broker
    cannot tell, ``NotAvailable`` is raised rather than a guess returned.
    """

    def __init__(self, broker: BrokerContract) -> None:
        self._of = broker

    # -- looking -----------------------------------------------------------------------

    @abstractmethod
    def counts(self, queue: str) -> QueueCounts:
        """How many messages are in each state."""

    @abstractmethod
    def browse(
        self, queue: str, state: State, *, limit: int = 50, cursor: str | None = None
    ) -> Page:
        """One page of what is in a state: the next to run, the next due, the first to die first.

        Looks at a page, however many there are. A page may hold fewer than ``limit``
        and still not be the last one. What comes or goes between two pages does
        not make the second one skip or repeat what stays.

        Args:
            cursor: of the page before.

        Raises:
            NotAvailable: this broker cannot look into this state.
            UnknownCursor: the cursor is none of this queue and state.
        """

    @abstractmethod
    def find(self, id: str, queue: str | None = None) -> Entry | None:
        """A message by its id, in whatever state; None where there is none.

        Raises:
            NotAvailable: it is not among those that this broker lets us look at.
        """

    @abstractmethod
    def run_now(self, queue: str, id: str) -> bool:
        """Have a scheduled message run now; False where there is none of that id.

        Raises:
            NotAvailable
        """

    @abstractmethod
    def workers(self) -> list[WorkerInfo]:
        """The worker processes, the last one heard of first.

        Raises:
            NotAvailable
        """

    # -- pausing, purging ----------------------------------------------------------------

    @abstractmethod
    def pause(self, queue: str) -> None:
        """Let no worker take messages of a queue; what is begun is finished."""

    @abstractmethod
    def resume(self, queue: str) -> None:
        """The opposite of :meth:`pause`."""

    @abstractmethod
    def is_paused(self, queue: str) -> bool:
        """Whether a queue is paused."""

    def purge(self, queue: str, *, dry_run: bool = False) -> int:
        """Drop what waits and, where the broker can, what is scheduled; never the dead.

        Returns:
            How many messages were dropped, or would be.
        """
        if not dry_run:
            return self._of.drop_waiting(queue)
        counts = self.counts(queue)
        return counts.waiting + (counts.scheduled or 0)

    # -- dead letters ----------------------------------------------------------------------

    @abstractmethod
    def dead_letters(self, which: DeadFilter, *, limit: int = 100) -> Iterator[Entry]:
        """Dead letters, by queue, the oldest first; in memory is a page at a time."""

    @abstractmethod
    def newest_dead(self, queue: str, *, limit: int = 10) -> list[Entry]:
        """The last dead letters of a queue, the newest first; at most 50.

        Raises:
            NotAvailable: there are so many that this broker cannot get to the end of them.
        """

    @abstractmethod
    def dead_letter(self, queue: str, id: str) -> Entry | None:
        """A dead letter by its id."""

    @abstractmethod
    def dead_ids(
        self, prefix: str, queue: str | None = None, *, limit: int = 10
    ) -> list[tuple[str, str]]:
        """Queue and id of dead letters whose id begins so; only the one that is the id itself,
        if there is one."""

    @abstractmethod
    def replay(
        self,
        which: Which,
        *,
        queue: str | None = None,
        dry_run: bool = False,
        progress: Progress = silent,
    ) -> int:
        """Put dead letters back on their queues, attempts at zero; returns how many.

        What dies again meanwhile is not replayed again.

        Args:
            which: a filter, or ids.
            queue: of the ids.
            dry_run: only count.
            progress: told now and then how many it is so far.
        """

    @abstractmethod
    def delete_dead(
        self,
        which: Which,
        *,
        queue: str | None = None,
        dry_run: bool = False,
        progress: Progress = silent,
    ) -> int:
        """Delete dead letters for good; as :meth:`replay`."""

    def _queues(self, queue: str | None) -> list[str]:
        return [queue] if queue is not None else sorted(self._of.queues)
