"""Which table an event belongs into, and which tables take nothing now."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from threading import Lock

from ...core.clock import SYSTEM_CLOCK, Clock
from ...core.errors import NotNow, SinkTransient
from .insert import Row, Table

logger = logging.getLogger("formrelay.workers")

#: The table of the types for which there is no other.
EVENTS = "events"
#: Those of the sorting key stand first.
COLUMNS = (
    "form_id",
    "type",
    "occurred_at",
    "event_id",
    "session_id",
    "submission_id",
    "properties",
)
_TYPE = COLUMNS.index("type")
#: One of several tables that takes nothing is left alone for so long at first, then twice as long
#: each time, up to the second: its events go back and forth between the queue and its schedule.
FIRST_WAIT, LONGEST_WAIT = timedelta(seconds=30), timedelta(minutes=15)


class Destinations:
    """Which table an event belongs into.

    Args:
        rules: pairs of a type, or the beginning of one with a ``*`` behind it, and a table's
            name; the first that fits counts.
    """

    def __init__(self, rules: Sequence[tuple[str, str]]) -> None:
        self._rules = rules
        names = dict.fromkeys([EVENTS, *(table for _, table in rules)])
        #: The tables that there are, by name.
        self.tables = {
            name: Table(name, COLUMNS, time=COLUMNS.index("occurred_at")) for name in names
        }

    def sort(self, rows: list[Row]) -> dict[str, list[Row]]:
        """The rows by the name of their table."""
        if not self._rules:
            return {EVENTS: rows}
        found: defaultdict[str, list[Row]] = defaultdict(list)
        for row in rows:
            found[self.of(row[_TYPE])].append(row)
        return found

    def of(self, type: str) -> str:
        """The name of the table for a type."""
        for pattern, table in self._rules:
            beginning = pattern.removesuffix("*")
            if type == pattern or (beginning != pattern and type.startswith(beginning)):
                return table
        return EVENTS


class Waits:
    """The tables that take nothing, as this process has found them. Safe across threads."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        #: By table: until when, after how many failures, the last one.
        self._waits: dict[str, tuple[float, int, str]] = {}

    def of(self, table: str) -> NotNow | None:
        """What becomes of the events of a table now; None: they are inserted."""
        wait = self._waits.get(table)
        left = wait[0] - self._clock.monotonic() if wait is not None else 0
        return NotNow(wait[2], after=timedelta(seconds=left)) if wait and left > 0 else None

    def failed(self, table: str, why: SinkTransient) -> NotNow:
        """It takes nothing. Says so, once a wait."""
        with self._lock:
            found = self.of(table)
            if found is not None:  # another thread was quicker
                return found
            failures = self._waits[table][1] + 1 if table in self._waits else 1
            after = min(FIRST_WAIT * 2 ** min(failures - 1, 10), LONGEST_WAIT)
            until = self._clock.monotonic() + after.total_seconds()
            self._waits[table] = (until, failures, str(why))
        about = {"table": table, "code": why.code, "error_message": str(why)}
        logger.error("a table takes nothing", extra=about)
        return NotNow(str(why), after=after)

    def worked(self, table: str) -> None:
        """It takes events."""
        if table in self._waits:
            with self._lock:
                was_there = self._waits.pop(table, None)
            if was_there:
                logger.info("a table takes events again", extra={"table": table})
