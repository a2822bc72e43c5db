"""Finds the jobs of queues in one state, as far as a command may look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from ...brokers import DeadFilter, Entry, Inspector, State
from ...brokers.fields import form_ids
from ...brokers.inspection import Extent
from ..caused_jobs import is_caused_by

#: Number of jobs that a search reads in one call.
_STEP = 500


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Selects the jobs that match every given field."""

    actor: str | None = None
    form: str | None = None
    id_prefix: str | None = None
    caused_by: str | None = None

    def matches(self, entry: Entry) -> bool:
        """Whether a job matches."""
        return (
            (self.actor is None or entry.message.actor_name == self.actor)
            and (self.id_prefix is None or entry.id.startswith(self.id_prefix))
            and (self.caused_by is None or is_caused_by(entry, self.caused_by))
            and (self.form is None or self.form in form_ids(entry.message))
        )


@dataclass(slots=True)
class Found:
    """Jobs that match.

    Attributes:
        looked_at: number of jobs that were read.
        cursor: where the last queue goes on, for another search; None if it ended, or if more of
            the jobs that were read match than the limit allows.
        is_complete: whether every job was read, and all that match are returned.
    """

    entries: list[Entry] = field(default_factory=list)
    looked_at: int = 0
    cursor: str | None = None
    is_complete: bool = True


def find_jobs(
    inspector: Inspector,
    queues: Sequence[str],
    state: State,
    which: JobFilter,
    *,
    limit: int,
    at_most: int,
    cursor: str | None = None,
) -> Found:
    """Find jobs, queue by queue, in the order of :meth:`Inspector.browse`.

    Args:
        limit: maximum number of results.
        at_most: maximum number of jobs to read.
        cursor: the cursor of a search in the first queue.

    Raises:
        NotAvailable: this broker cannot list messages in this state.
        UnknownCursor: the cursor belongs to another query.
    """
    if state is State.DEAD and which != JobFilter():
        return _find_dead(inspector, queues, which, limit, at_most)
    found = Found()
    # Without a filter every job is a result.
    step = limit if which == JobFilter() else _STEP
    for number, queue in enumerate(queues):
        after = cursor if not number else None
        while True:
            left = min(step, at_most - found.looked_at)
            if which == JobFilter():
                left = min(left, limit - len(found.entries))
            page = inspector.browse(queue, state, limit=left, cursor=after)
            found.looked_at += len(page.entries)
            matching = [entry for entry in page.entries if which.matches(entry)]
            room = limit - len(found.entries)
            found.entries += matching[:room]
            after = page.cursor
            if len(matching) > room:
                found.is_complete = False
                return found
            is_enough = len(found.entries) == limit or found.looked_at >= at_most
            if is_enough and (after is not None or number < len(queues) - 1):
                found.cursor, found.is_complete = after, False
                return found
            if after is None:
                break
    return found


def _find_dead(
    inspector: Inspector, queues: Sequence[str], which: JobFilter, limit: int, at_most: int
) -> Found:
    """Find dead letters without pages: RabbitMQ reads from the start for each page."""
    extent = Extent(at_most)
    letters = (
        letter
        for queue in queues
        for letter in inspector.dead_letters(
            DeadFilter(queue, actor=which.actor, form_id=which.form), limit=None, extent=extent
        )
        if which.matches(letter)
    )
    entries = list(islice(letters, limit + 1))
    is_complete = len(entries) <= limit and extent.is_complete
    return Found(entries[:limit], extent.looked_at, is_complete=is_complete)
