"""The audit log: who changed what, with the command line or a dashboard.

An entry names the selection and the number of changed messages; it never contains a payload. The
log is bounded: the oldest entries are dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Lock
from typing import Literal, Protocol

from ..core.clock import SYSTEM_CLOCK, Clock
from ..core.printable import printable
from .millis import from_millis

#: Maximum number of entries.
MAX_ENTRIES = 10_000
#: Maximum length of each text of an entry; longer texts are cut.
MAX_TEXT = 300
#: Maximum number of entries on a page.
MAX_PAGE = 1_000

Via = Literal["cli", "dashboard", "django"]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A change that an operator made.

    Attributes:
        who: the operator: ``user@host`` on the command line, the name of the login in a dashboard.
        via: what the operator used.
        action: as the command that does it: ``dlq replay``.
        target: the changed object, such as a queue or an id; "" for none.
        filter: the selection in words: ``queue webhooks, error ConnectError``.
        count: number of messages or entries that were changed; None if it is not known.
        outcome: ``done``, or what happened instead: ``stopped``, ``failed: …``. ``running``: the
            action has several steps, and writes another entry when it ends.
        at: when, UTC; set by the store.
    """

    who: str
    via: Via
    action: str
    target: str = ""
    filter: str = ""
    count: int | None = None
    outcome: str = "done"
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, the newest first, and the cursor of the next page (None on the last page)."""

    entries: Sequence[AuditEntry]
    cursor: str | None


class AuditLog(Protocol):
    """The audit log. Each call is atomic.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: the store failed.
    """

    def add(self, entry: AuditEntry) -> None:
        """Add an entry, with the time of the store. May add it twice after a lost answer.

        Characters that a terminal would obey are escaped, and long texts are cut.
        """

    def newest(self, limit: int = 100, cursor: str | None = None) -> AuditPage:
        """Return the newest entries, or the entries after a page.

        Entries that are added meanwhile are not repeated on later pages.

        Args:
            limit: maximum number of entries, at most 1,000.
            cursor: the cursor of the previous page; None for the newest entries.

        Raises:
            ValueError: ``cursor`` is not a cursor.
        """


def clean_entry(entry: AuditEntry) -> AuditEntry:
    """Escape and cut the texts of an entry."""
    return replace(
        entry,
        who=_clean(entry.who),
        action=_clean(entry.action),
        target=_clean(entry.target),
        filter=_clean(entry.filter),
        outcome=_clean(entry.outcome),
    )


def bad_cursor() -> ValueError:
    """Make the error about a text that is not a cursor."""
    return ValueError("expected the cursor of an earlier page, got another text")


def _clean(text: str) -> str:
    text = printable(text[:MAX_TEXT])
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


class MemoryAuditLog:
    """The audit log of this process alone. Thread-safe."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK, most: int = MAX_ENTRIES) -> None:
        self._clock = clock
        self._lock = Lock()
        self._entries: deque[tuple[int, AuditEntry]] = deque(maxlen=most)
        self._number = 0

    def add(self, entry: AuditEntry) -> None:
        now = from_millis(int(self._clock.time() * 1000))
        with self._lock:
            self._number += 1
            self._entries.appendleft((self._number, replace(clean_entry(entry), at=now)))

    def newest(self, limit: int = 100, cursor: str | None = None) -> AuditPage:
        if cursor is not None and not (cursor.isascii() and cursor.isdigit()):
            raise bad_cursor()
        before = None if cursor is None else int(cursor)
        limit = min(limit, MAX_PAGE)
        with self._lock:
            found = [each for each in self._entries if before is None or each[0] < before]
        entries = [entry for _, entry in found[:limit]]
        return AuditPage(entries, str(found[limit - 1][0]) if len(found) > limit else None)
