"""The order of the dead letters of all queues: by time of death, queue and id."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter

from .entries import Entry, QueueCounts
from .errors import UnknownCursor
from .filters import Extent, Place


def sorted_letters(
    counts: Iterable[QueueCounts],
    read: Callable[[str, Extent], Iterable[Entry]],
    extent: Extent,
    after: Place | None,
) -> Iterator[Entry]:
    """Yield the dead letters of queues, the newest first, for a broker that reads the oldest first.

    Each queue gets an equal part of ``extent``. What a short queue does not use is left for the
    longer queues.

    Args:
        counts: of the queues.
        read: yields the dead letters of a queue that match, as far as an extent goes.
        after: place after which to go on.
    """
    found: list[tuple[Place, Entry]] = []
    queues = sorted(
        (each for each in counts if each.dead or each.dead_is_lower_bound),
        key=lambda each: each.dead,
    )
    for number, each in enumerate(queues):
        share = extent.left / (len(queues) - number)
        part = Extent(at_most=None if share == math.inf else math.ceil(share))
        found += ((_place_of(letter), letter) for letter in read(each.queue, part))
        extent.looked_at += part.looked_at
        extent.is_complete &= part.is_complete
    for place, letter in sorted(found, key=itemgetter(0), reverse=True):
        if after is None or place < after:
            extent.last = place
            yield letter


def _place_of(letter: Entry) -> Place:
    return Place(letter.died or 0.0, letter.queue, letter.id.encode(errors="surrogateescape"))


def place_of(cursor: str | None) -> Place | None:
    """Read a cursor of :meth:`Inspector.recent_dead`.

    Raises:
        UnknownCursor: it is malformed.
    """
    try:
        return None if cursor is None else Place.read(cursor)
    except ValueError:
        raise UnknownCursor from None
