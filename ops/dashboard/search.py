"""Searches the messages of a queue, and ids in all queues, looking at a bounded number."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields

from ...brokers import Entry, Inspector, QueueCounts, State
from ...brokers.fields import form_ids
from ...brokers.inspection import Extent
from ...core.error_groups import is_error

#: Number of results on a page.
PAGE = 50
#: Number of messages to read in one call, and maximum number to look at for one page.
_CHUNK, _MAX_LOOKED_AT = 100, 2_000
#: Seconds after which a search returns the messages that it has found.
MAX_SECONDS = 0.5
#: For a search by the first characters of an id: maximum number of ids to look at, maximum seconds,
#: maximum number of results.
_MAX_IDS, _MAX_FIND_SECONDS, _MAX_MATCHES = 300_000, 1.0, 20


@dataclass(frozen=True, slots=True)
class Search:
    """The fields of a search; an empty text matches everything.

    Attributes:
        id: first characters of the id.
        actor: part of the actor's name.
        form: id of a form.
        error: type of the last failure, or a part of its text, as :class:`.DeadFilter` takes it.
    """

    id: str = ""
    actor: str = ""
    form: str = ""
    error: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether it matches everything."""
        return not any(getattr(self, each.name) for each in fields(self))

    def matches(self, entry: Entry) -> bool:
        """Whether a message matches."""
        return (
            entry.id.startswith(self.id)
            and self.actor.lower() in entry.message.actor_name.lower()
            and (not self.error or is_error(entry.failure, self.error))
            and (not self.form or self.form in form_ids(entry.message))
        )


@dataclass(slots=True)
class FoundIds:
    """The jobs whose id begins with a text.

    Attributes:
        matches: queue and id of each job; a single job if its whole id is the text.
        looked_at: number of ids that were looked at.
        is_complete: whether all ids were looked at.
        has_more: whether there are more matches.
    """

    matches: list[tuple[str, str]] = field(default_factory=list)
    looked_at: int = 0
    is_complete: bool = True
    has_more: bool = False


def find_ids(inspector: Inspector, prefix: str) -> FoundIds:
    """Find jobs in any queue by the beginning of their ids, the shortest queues first."""
    extent, end, found = Extent(_MAX_IDS), time.monotonic() + _MAX_FIND_SECONDS, FoundIds()
    counts = sorted(inspector.counts_of(inspector.queues()), key=_size)
    for each in counts:
        if len(found.matches) > _MAX_MATCHES:
            break
        if not extent.left or time.monotonic() > end:
            extent.is_complete = False
            break
        matches = inspector.ids(prefix, each.queue, limit=_MAX_MATCHES + 1, extent=extent)
        if (each.queue, prefix) in matches:
            return FoundIds([(each.queue, prefix)])
        found.matches += matches
    found.has_more = len(found.matches) > _MAX_MATCHES
    del found.matches[_MAX_MATCHES:]
    found.looked_at, found.is_complete = extent.looked_at, extent.is_complete
    return found


def _size(counts: QueueCounts) -> int:
    return sum(number or 0 for number in (counts.waiting, counts.scheduled, counts.dead))


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A page of a search.

    Attributes:
        looked_at: number of messages that were looked at.
        cursor: where the next page begins; None at the end of the queue.
    """

    entries: list[Entry]
    looked_at: int
    cursor: str | None


def search(
    inspector: Inspector, queue: str, state: State, what: Search, cursor: str | None
) -> SearchResult:
    """Find the messages that match, in the order of :meth:`Inspector.browse`.

    Raises:
        NotAvailable: this broker cannot list messages in this state.
        UnknownCursor: the cursor belongs to another query.
    """
    if what.is_empty:
        page = inspector.browse(queue, state, limit=PAGE, cursor=cursor)
        return SearchResult(page.entries, len(page.entries), page.cursor)
    entries: list[Entry] = []
    looked_at, end = 0, time.monotonic() + MAX_SECONDS
    while True:
        page = inspector.browse(queue, state, limit=_CHUNK, cursor=cursor)
        looked_at += len(page.entries)
        entries += filter(what.matches, page.entries)
        cursor = page.cursor
        is_enough = len(entries) >= PAGE or looked_at >= _MAX_LOOKED_AT or time.monotonic() > end
        if cursor is None or is_enough:
            return SearchResult(entries, looked_at, cursor)
