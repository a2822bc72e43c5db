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


@dataclass(frozen=True, slots=True)
class BounceRate:
    """The numbers of a group of e-mails, such as those to a domain that were sent in an hour."""

    sent: int
    bounced: int


class BounceRates(Protocol):
    """Numbers of e-mails by group. Each call is atomic.

    A group is any text; the shared store has its digest only.

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


class MemoryBounceRates:
    """Numbers of this process alone. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._groups: dict[str, tuple[int, set[str]]] = {}

    def note_sent(self, group: str, number: int) -> None:
        with self._lock:
            sent, bounced = self._pop(group)
            self._groups[group] = (sent + number, bounced)

    def note_bounced(self, group: str, event: str) -> BounceRate:
        with self._lock:
            sent, bounced = self._pop(group)
            bounced.add(event)
            self._groups[group] = (sent, bounced)
            return BounceRate(sent, len(bounced))

    def _pop(self, group: str) -> tuple[int, set[str]]:
        """Take a group out, to be stored as the newest."""
        if group not in self._groups and len(self._groups) >= _MAX_GROUPS:
            del self._groups[next(iter(self._groups))]
        return self._groups.pop(group, (0, set()))
