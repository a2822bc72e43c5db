"""The questions of an operator, as far as any broker can answer them.

This one knows nothing but what every broker has: counts, and dead letters that are
read from the first on. A broker that can tell more has a subclass.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from .inspection import (
    DeadFilter,
    DeadLetter,
    Entry,
    NotAvailable,
    Page,
    QueueCounts,
    State,
    UnknownCursor,
    Which,
    WorkerInfo,
    died_at,
)

if TYPE_CHECKING:
    from .base import RelayBroker

#: More dead letters than anybody has.
_ALL = 10_000_000


class Inspector:
    """Looks at queues without consuming or reordering them, and at the dead letters' fate.

    A queue of None is every queue that is declared in this process.
    """

    def __init__(self, broker: RelayBroker) -> None:
        self._of = broker

    # -- looking -----------------------------------------------------------------------

    def counts(self, queue: str) -> QueueCounts:
        """How many messages are in each state."""
        return self._of.counts(queue)

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
        if state is not State.DEAD:
            raise NotAvailable(f"a look at the {state.replace('_', ' ')} messages")
        try:
            first = int(cursor or 0)
        except ValueError:
            raise UnknownCursor from None
        # AMQP has no way to begin further on.
        letters = self._of.dead_letters(queue, limit=first + limit + 1)
        entries = [_entry(letter) for letter in islice(letters, first, first + limit + 1)]
        more = len(entries) > limit
        return Page(entries[:limit], str(first + limit) if more else None)

    def find(self, id: str, queue: str | None = None) -> Entry | None:
        """A message by its id, in whatever state; None where there is none.

        Raises:
            NotAvailable: it is not among those that this broker lets us look at.
        """
        for letter in self._letters(queue):
            if letter.id == id:
                return letter
        raise NotAvailable(f"a job that is not dead by its id ({id!r} is not among the dead)")

    def workers(self) -> list[WorkerInfo]:
        """The worker processes, the last one heard of first.

        Raises:
            NotAvailable
        """
        raise NotAvailable("the list of workers")

    # -- pausing, purging ----------------------------------------------------------------

    def pause(self, queue: str) -> None:
        """Let no worker take messages of a queue; what is begun is finished.

        Raises:
            NotAvailable
        """
        raise NotAvailable("pausing a queue for all workers")

    def resume(self, queue: str) -> None:
        """The opposite of :meth:`pause`."""
        raise NotAvailable("pausing a queue for all workers")

    def is_paused(self, queue: str) -> bool:
        """Whether a queue is paused."""
        raise NotAvailable("pausing a queue for all workers")

    def purge(self, queue: str, *, dry_run: bool = False) -> int:
        """Drop what waits and, where the broker can, what is scheduled; never the dead.

        Returns:
            How many there were.
        """
        counts = self.counts(queue)
        if not dry_run:
            self._of.flush(queue)
        return counts.waiting + (counts.scheduled or 0)

    # -- dead letters ----------------------------------------------------------------------

    def dead_letters(self, which: DeadFilter, *, limit: int = 100) -> Iterator[Entry]:
        """Dead letters, by queue, the oldest first; in memory is a page at a time."""
        yield from islice(filter(which.matches, self._letters(which.queue)), limit)

    def dead_letter(self, queue: str, id: str) -> Entry | None:
        """A dead letter by its id."""
        return next((letter for letter in self._letters(queue) if letter.id == id), None)

    def dead_ids(
        self, prefix: str, queue: str | None = None, *, limit: int = 10
    ) -> list[tuple[str, str]]:
        """Queue and id of dead letters whose id begins so; only the one that is the id itself,
        if there is one."""
        found: list[tuple[str, str]] = []
        for letter in self._letters(queue):
            if letter.id == prefix:
                return [(letter.queue, letter.id)]
            if letter.id.startswith(prefix) and len(found) < limit:
                found.append((letter.queue, letter.id))
        return found

    def replay(
        self,
        which: Which,
        *,
        queue: str | None = None,
        dry_run: bool = False,
    ) -> int:
        """Put dead letters back on their queues, attempts at zero; returns how many.

        What dies again meanwhile is not replayed again.

        Args:
            which: a filter, or ids.
            queue: of the ids.
            dry_run: only count.
        """
        found = self._found(which, queue)
        return len(found) if dry_run else sum(self._of.replay(*one) for one in found)

    def delete_dead(
        self,
        which: Which,
        *,
        queue: str | None = None,
        dry_run: bool = False,
    ) -> int:
        """Delete dead letters for good; as :meth:`replay`."""
        found = self._found(which, queue)
        return len(found) if dry_run else sum(self._of.delete_dead(*one) for one in found)

    def _found(self, which: Which, queue: str | None) -> list[tuple[str, str]]:
        if isinstance(which, DeadFilter):
            letters = self.dead_letters(which, limit=_ALL)
        else:
            wanted = set(which)
            letters = (letter for letter in self._letters(queue) if letter.id in wanted)
        return [(letter.queue, letter.id) for letter in letters]

    def _letters(self, queue: str | None) -> Iterator[Entry]:
        for name in self._queues(queue):
            yield from map(_entry, self._of.dead_letters(name, limit=_ALL))

    def _queues(self, queue: str | None) -> list[str]:
        return [queue] if queue is not None else sorted(self._of.queues)


def _entry(letter: DeadLetter) -> Entry:
    return Entry(
        letter.queue,
        letter.id,
        State.DEAD,
        letter.message,
        failure=letter.failure,
        died=died_at(letter.failure),
    )
