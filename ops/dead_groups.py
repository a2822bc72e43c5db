"""Groups dead letters by error, looking at a bounded number of dead letters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..brokers import DeadFilter, Entry, Inspector
from ..brokers.inspection import Extent
from ..core.error_groups import MAX_LENGTH, group_id, normalise
from ..core.redaction import redacted

#: Default number of dead letters to look at.
LIMIT = 10_000
#: Maximum number of groups, and of names of queues or actors in a group.
MAX_GROUPS, MAX_NAMES = 1_000, 20


@dataclass(slots=True)
class DeadGroup:
    """Dead letters whose errors have the same type and the same normalised text.

    Attributes:
        id: the value of :attr:`.DeadFilter.group` and ``--group``.
        error: type of the exception; empty for a message dead-lettered outside formrelay.
        message: normalised text, without values of the example's payload.
        first, last: earliest and latest time of death, Unix seconds; None if unknown.
        queues, actors: at most :data:`MAX_NAMES` of each, sorted.
        example: queue and id of the first dead letter that was found.
    """

    id: str
    error: str
    message: str
    example: tuple[str, str]
    count: int = 0
    first: float | None = None
    last: float | None = None
    queues: list[str] = field(default_factory=list)
    actors: list[str] = field(default_factory=list)

    def add(self, letter: Entry) -> None:
        """Count a dead letter."""
        self.count += 1
        self.first, self.last = _widened(self.first, self.last, letter.died)
        _note(self.queues, letter.queue)
        _note(self.actors, letter.message.actor_name)


@dataclass(slots=True)
class DeadGroups:
    """The groups of the dead letters that match a filter.

    Attributes:
        groups: the largest first.
        looked_at: number of dead letters that were looked at, whether they match or not.
        is_complete: whether all dead letters were looked at; if not, each count means "at least".
        first, last: earliest and latest time of death of the matching dead letters, Unix seconds.
        ungrouped: number of matching dead letters without a group, since there are too many groups.
    """

    groups: list[DeadGroup] = field(default_factory=list)
    looked_at: int = 0
    is_complete: bool = True
    first: float | None = None
    last: float | None = None
    ungrouped: int = 0

    @property
    def count(self) -> int:
        """Number of dead letters that match."""
        return self.ungrouped + sum(group.count for group in self.groups)


def group_dead_letters(
    inspector: Inspector,
    which: DeadFilter,
    *,
    limit: int = LIMIT,
    most_groups: int = MAX_GROUPS,
    newest_first: bool = False,
    whole_queues: bool = False,
) -> DeadGroups:
    """Group the dead letters that match a filter, in bounded memory.

    Args:
        limit: maximum number of dead letters to look at.
        newest_first: look at them as :meth:`.Inspector.recent_dead`; otherwise at the oldest of
            each queue first.
        whole_queues: look at all; see :class:`..brokers.filters.Extent`.
    """
    extent = Extent(at_most=None if whole_queues else limit, whole_queues=whole_queues)
    found = DeadGroups()
    by_id: dict[str, DeadGroup] = {}
    if newest_first:
        letters = inspector.recent_dead(which, extent=extent)
    else:
        letters = inspector.dead_letters(which, limit=None, extent=extent)
    for letter in letters:
        found.first, found.last = _widened(found.first, found.last, letter.died)
        id = group_id(letter.failure)
        if id not in by_id and len(by_id) < most_groups:
            by_id[id] = group_of(letter)
        if id in by_id:
            by_id[id].add(letter)
        else:
            found.ungrouped += 1
    found.groups = sorted(by_id.values(), key=lambda group: (-group.count, group.id))
    found.looked_at, found.is_complete = extent.looked_at, extent.is_complete
    return found


def group_of(letter: Entry) -> DeadGroup:
    """Return the group of a dead letter, with a count of 0."""
    failure, message = letter.failure, letter.message
    id = group_id(failure)
    example = (letter.queue, letter.id)
    if failure is None:
        return DeadGroup(id, "", "dead-lettered outside formrelay", example)
    # Errors of formrelay quote no values. Errors of other programs and versions may.
    values: list[Any] = [message.args, message.kwargs]
    text = redacted(normalise(failure.message), values, most=MAX_LENGTH)
    return DeadGroup(id, failure.error, text, example)


def _widened(
    first: float | None, last: float | None, at: float | None
) -> tuple[float | None, float | None]:
    if at is None:
        return first, last
    return at if first is None else min(first, at), at if last is None else max(last, at)


def _note(names: list[str], name: str) -> None:
    if name not in names and len(names) < MAX_NAMES:
        names.append(name)
        names.sort()
