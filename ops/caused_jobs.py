"""Finds the jobs that a job caused, among the jobs of all queues, as far as a page may look."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..brokers import DeadFilter, Entry, Inspector, NotAvailable, State
from ..brokers.inspection import Extent
from ..middleware.delivery import BATCH, CAUSED_BY

#: Maximum number of results, of jobs to look at, and seconds to look for a page.
_MOST_FOUND, _MOST, _SECONDS = 50, 5_000, 0.4
#: Number of jobs that are read in one call, and of the newest dead letters.
_CHUNK, _NEWEST = 100, 50


@dataclass(slots=True)
class CausedJobs:
    """The jobs that a job caused and that a queue still has.

    Attributes:
        looked_at: number of jobs that were read.
        is_complete: whether every job was read that the broker can list.
        only_dead: whether the broker can list dead letters only.
    """

    entries: list[Entry] = field(default_factory=list)
    looked_at: int = 0
    is_complete: bool = True
    only_dead: bool = False

    @property
    def extent(self) -> str:
        """Say over which jobs the search looked."""
        what = "dead letters" if self.only_dead else "jobs"
        if self.is_complete:
            text = f"looked at all {self.looked_at:,} {what} of all queues"
        else:
            text = f"looked at {self.looked_at:,} {what} of all queues, not at all of them"
        return text + ("; this broker lists no others" if self.only_dead else "")


def cause_in(entry: Entry) -> str | None:
    """Return the id of the job that caused a job; None if unknown."""
    cause = entry.message.options.get(CAUSED_BY)
    return cause if isinstance(cause, str) and cause else None


def find_caused(
    inspector: Inspector, id: str, *, sent_at: float | None = None, seconds: float | None = None
) -> CausedJobs:
    """Find the jobs that a job caused.

    Looks at some jobs of each queue in turn, so that a long queue does not hide the others.

    Args:
        id: id of the job.
        sent_at: when it was sent, Unix seconds, if known: the jobs it caused died later.
        seconds: maximum duration of the search; None: that of a page, 0.4 s.
    """
    end = time.monotonic() + (_SECONDS if seconds is None else seconds)
    result, found = CausedJobs(), dict[tuple[str, str], Entry]()
    walks = deque(_walks(inspector, sent_at, result))
    while walks:
        if result.looked_at >= _MOST or len(found) > _MOST_FOUND or time.monotonic() > end:
            result.is_complete = False
            break
        page = next(walks[0], None)
        if page is None:
            walks.popleft()
            continue
        walks.rotate(-1)
        result.looked_at += len(page)
        # Of a job that changes its state meanwhile, the last state that was seen.
        found |= {(each.queue, each.id): each for each in page if is_caused_by(each, id)}
    entries = list(found.values())
    result.entries = sorted(entries, key=lambda entry: entry.message.message_timestamp)
    result.is_complete &= len(entries) <= _MOST_FOUND
    del result.entries[_MOST_FOUND:]
    return result


def _walks(
    inspector: Inspector, sent_at: float | None, result: CausedJobs
) -> Iterator[Iterator[list[Entry]]]:
    """Yield an iterator over the pages of each queue in each state that has jobs."""
    for counts in inspector.counts_of(inspector.queues()):
        for state in State:
            if getattr(counts, state.value) == 0:
                continue
            if state is State.DEAD:
                yield _dead(inspector, counts.queue, sent_at, result)
            else:
                yield _live(inspector, counts.queue, state, result)


def _live(
    inspector: Inspector, queue: str, state: State, result: CausedJobs
) -> Iterator[list[Entry]]:
    cursor = None
    try:
        while True:
            page = inspector.browse(queue, state, limit=_CHUNK, cursor=cursor)
            yield page.entries
            if (cursor := page.cursor) is None:
                return
    except NotAvailable:
        result.only_dead = True


def _dead(
    inspector: Inspector, queue: str, sent_at: float | None, result: CausedJobs
) -> Iterator[list[Entry]]:
    """Yield pages of dead letters; the newest first if it is unknown when the cause was sent."""
    seen: set[str] = set()
    if sent_at is None:
        with suppress(NotAvailable):  # from the oldest on, as far as the broker reads
            newest = inspector.newest_dead(queue, limit=_NEWEST)
            yield newest
            if len(newest) < _NEWEST:
                return
            seen = {letter.id for letter in newest}
    extent = Extent(_MOST)
    page: list[Entry] = []
    for letter in inspector.dead_letters(
        DeadFilter(queue, since=sent_at), limit=None, extent=extent
    ):
        if letter.id not in seen:
            page.append(letter)
        if len(page) == _CHUNK:
            yield page
            page = []
    yield page
    result.is_complete &= extent.is_complete


def is_caused_by(entry: Entry, id: str) -> bool:
    """Whether a job caused a job, or a part of a frozen batch."""
    parts = entry.message.kwargs.get(BATCH)
    found: list[Any] = [entry.message.options]
    if isinstance(parts, list):
        found += [part.get("options") for part in parts if isinstance(part, Mapping)]
    return any(isinstance(each, Mapping) and each.get(CAUSED_BY) == id for each in found)
