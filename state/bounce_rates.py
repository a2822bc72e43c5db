"""How many of the e-mails to a domain bounced, over all workers.

A provider with an outage may answer "no such user" for all of its users. The share of an hour's
e-mails that bounced tells such an outage from addresses that do not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from typing import Protocol

#: How long the numbers are kept: reports may arrive days later.
KEEP = timedelta(days=7)
#: Maximum number of groups in memory; the oldest are dropped.
_MAX_GROUPS = 10_000
#: Maximum number of groups whose names are kept: those with the newest bounces.
MAX_RECENT = 1_000


@dataclass(frozen=True, slots=True)
class BounceRate:
    """The numbers of a group of e-mails, such as those to a domain that were sent in an hour."""

    sent: int
    bounced: int


@dataclass(frozen=True, slots=True)
class GroupRate:
    """The numbers of a group with bounces."""

    group: str
    rate: BounceRate


class BounceRates(Protocol):
    """Numbers of e-mails by group. Each call is atomic.

    A group is any text without personal data: the shared store has the names of groups with
    bounces. It has digests of all other texts.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: the store failed.
    """

    def note_sent(self, group: str, number: int) -> None:
        """Count e-mails that were accepted or refused. May count twice after a lost answer."""

    def note_bounced(self, group: str, event: str) -> BounceRate:
        """Count a bounce, and return the numbers with it.

        Args:
            event: names the e-mail and its recipient: a repeated report counts once.
        """

    def recent(self, limit: int) -> list[GroupRate]:
        """Return the groups with bounces, the group with the newest bounce first.

        Args:
            limit: maximum number of groups; at most :data:`MAX_RECENT` are known.
        """


class MemoryBounceRates:
    """Numbers of this process alone. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._groups: dict[str, tuple[int, set[str]]] = {}
        #: The groups with bounces, the group with the newest bounce last.
        self._recent: dict[str, None] = {}

    def note_sent(self, group: str, number: int) -> None:
        with self._lock:
            sent, bounced = self._pop(group)
            self._groups[group] = (sent + number, bounced)

    def note_bounced(self, group: str, event: str) -> BounceRate:
        with self._lock:
            sent, bounced = self._pop(group)
            bounced.add(event)
            self._groups[group] = (sent, bounced)
            self._recent.pop(group, None)
            self._recent[group] = None
            if len(self._recent) > MAX_RECENT:
                del self._recent[next(iter(self._recent))]
            return BounceRate(sent, len(bounced))

    def recent(self, limit: int) -> list[GroupRate]:
        with self._lock:
            known = [group for group in reversed(self._recent) if group in self._groups][:limit]
            numbers = [(group, *self._groups[group]) for group in known]
        return [GroupRate(group, BounceRate(sent, len(its))) for group, sent, its in numbers]

    def _pop(self, group: str) -> tuple[int, set[str]]:
        """Take a group out, to be stored as the newest."""
        if group not in self._groups and len(self._groups) >= _MAX_GROUPS:
            del self._groups[next(iter(self._groups))]
        return self._groups.pop(group, (0, set()))
