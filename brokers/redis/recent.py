"""Reads the dead letters of several queues in one order, the newest first."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from operator import itemgetter

from ..filters import DeadFilter, Extent, Place
from ..inspection import Entry, State
from .pages import Pages

#: Number of dead letters of a queue that are read in the first call, and at most in a call.
_FEWEST, _FIRST, _MOST = 10, 100, 500


def recent_dead(
    pages: Pages, queues: Sequence[str], which: DeadFilter, extent: Extent, after: Place | None
) -> Iterator[Entry]:
    """Yield the dead letters that match, the newest first; see :meth:`Inspector.recent_dead`.

    Args:
        after: place after which to go on.
    """
    # Every queue is read at first: of many queues, few letters of each.
    size = int(min(max(extent.left / max(len(queues), 1), _FEWEST), _FIRST))
    newest = [_of_queue(pages, queue, which, after, size) for queue in queues]
    for place, body in heapq.merge(*newest, key=itemgetter(0), reverse=True):
        if not extent.left:
            extent.is_complete = False
            return
        extent.looked_at += 1
        extent.last = place
        at, queue, id = place
        letter = pages.entry(queue, State.DEAD, id, body, died=at / 1000)
        if which.matches(letter):
            yield letter


def _of_queue(
    pages: Pages, queue: str, which: DeadFilter, after: Place | None, size: int
) -> Iterator[tuple[Place, bytes]]:
    """Yield the bodies of the dead letters of a queue with their places, the newest first.

    Args:
        size: number of dead letters in the first call.
    """
    highest, id = "+inf" if which.until is None else f"({which.until * 1000!r}", b""
    if after is not None:
        highest = f"({after.at!r}" if queue > after.queue else repr(after.at)
        id = after.id if queue == after.queue else b""
    while True:
        page, seen = pages.newest_dead(queue, size, highest, id, which.since)
        yield from page
        if seen is None:
            return
        highest, id = seen
        size = min(2 * size, _MOST)
