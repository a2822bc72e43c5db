"""Searches the messages of a queue in one state, as far as a page may look."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields

from ...brokers import Entry, Inspector, QueueCounts, State
from ...brokers.fields import form_ids
from ...brokers.inspection import Extent
from ...core.error_groups import is_error

#: Number of results on a page.
PAGE = 50
#: Number of messages that a search reads in one call, and at most for one page.
_CHUNK, _MOST = 100, 2_000
#: Seconds after which a search ends with what it has found.
LONGEST = 0.5
#: Maximum number of ids and seconds to look for the beginning of an id, and number of results.
_MOST_IDS, _LONGEST_FIND, _MOST_MATCHES = 300_000, 1.0, 20


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for; an empty text matches everything.

    Attributes:
        id: begin of the id.
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
        matches: queue and id of each; one if its id is the text.
        looked_at: number of ids that were read.
        is_complete: whether all ids were read.
        has_more: whether there are more matches.
    """

    matches: list[tuple[str, str]] = field(default_factory=list)
    looked_at: int = 0
    is_complete: bool = True
    has_more: bool = False


def find_ids(inspector: Inspector, prefix: str) -> FoundIds:
    """Find jobs in any queue by the beginning of their ids, the shortest queues first."""
    extent, end, found = Extent(_MOST_IDS), time.monotonic() + _LONGEST_FIND, FoundIds()
    counts = sorted(inspector.counts_of(inspector.queues()), key=_size)
    for each in counts:
        if len(found.matches) > _MOST_MATCHES:
            break
        if not extent.left or time.monotonic() > end:
            extent.is_complete = False
            break
        matches = inspector.ids(prefix, each.queue, limit=_MOST_MATCHES + 1, extent=extent)
        if (each.queue, prefix) in matches:
            return FoundIds([(each.queue, prefix)])
        found.matches += matches
    found.has_more = len(found.matches) > _MOST_MATCHES
    del found.matches[_MOST_MATCHES:]
    found.looked_at, found.is_complete = extent.looked_at, extent.is_complete
    return found


def _size(counts: QueueCounts) -> int:
    return sum(number or 0 for number in (counts.waiting, counts.scheduled, counts.dead))


@dataclass(frozen=True, slots=True)
class Found:
    """The results of a page.

    Attributes:
        looked_at: number of messages that were read.
        cursor: where the search goes on; None at the end of the queue.
    """

    entries: list[Entry]
    looked_at: int
    cursor: str | None


def search(
    inspector: Inspector, queue: str, state: State, what: Search, cursor: str | None
) -> Found:
    """Find the messages that match, in the order of :meth:`Inspector.browse`.

    Raises:
        NotAvailable: this broker cannot list messages in this state.
        UnknownCursor: the cursor belongs to another query.
    """
    if what.is_empty:
        page = inspector.browse(queue, state, limit=PAGE, cursor=cursor)
        return Found(page.entries, len(page.entries), page.cursor)
    entries: list[Entry] = []
    looked_at, end = 0, time.monotonic() + LONGEST
    while True:
        page = inspector.browse(queue, state, limit=_CHUNK, cursor=cursor)
        looked_at += len(page.entries)
        entries += filter(what.matches, page.entries)
        cursor = page.cursor
        is_enough = len(entries) >= PAGE or looked_at >= _MOST or time.monotonic() > end
        if cursor is None or is_enough:
            return Found(entries, looked_at, cursor)
