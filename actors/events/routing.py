"""Routes events by type: the table of each event, and the tables that accept no rows at present."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from threading import Lock

from ...core.backoff import BackoffTimer
from ...core.clock import SYSTEM_CLOCK, Clock
from ...core.errors import DeferReason, NotNow, SinkTransient
from ...core.retry import Exponential
from .insert import Row, Table

logger = logging.getLogger("formrelay.workers")

#: The table for types that no rule matches.
EVENTS = "events"
#: The columns of every table of events, beginning with its sorting key.
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
#: How long the events of a table are deferred. Longer than for a whole sink, since every deferred
#: event goes back to the schedule of its queue.
BACKOFF = Exponential(base=timedelta(seconds=30), cap=timedelta(minutes=15))


class Router:
    """Chooses the table of each event by its type.

    Args:
        rules: pairs of a type and a table's name; the first match counts. A type that ends in
            ``*`` is a prefix.
    """

    def __init__(self, rules: Sequence[tuple[str, str]]) -> None:
        self._rules = rules
        names = dict.fromkeys([EVENTS, *(table for _, table in rules)])
        #: Every table that events are inserted into, by name.
        self.tables = {
            name: Table(name, COLUMNS, time=COLUMNS.index("occurred_at")) for name in names
        }

    def split(self, rows: list[Row]) -> dict[str, list[Row]]:
        """Group rows by the name of their table."""
        if not self._rules:
            return {EVENTS: rows}
        by_table: defaultdict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_table[self.table_of(row[_TYPE])].append(row)
        return by_table

    def table_of(self, type: str) -> str:
        """The name of the table for a type."""
        for pattern, table in self._rules:
            prefix = pattern.removesuffix("*")
            if type == pattern or (prefix != pattern and type.startswith(prefix)):
                return table
        return EVENTS


class TableBackoffs:
    """The back-off of each table that accepts no rows, as seen by this process. Thread-safe."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        #: By table: its timer, and the last error.
        self._waiting: dict[str, tuple[BackoffTimer, str]] = {}

    def active(self, table: str) -> NotNow | None:
        """The error that defers the events of a table; None where they can be inserted."""
        waiting = self._waiting.get(table)
        if waiting is None or not (left := waiting[0].remaining):
            return None
        return NotNow(waiting[1], after=left, reason=DeferReason.SINK_UNREADY)

    def failed(self, table: str, why: SinkTransient) -> NotNow:
        """Begin a wait of the table; logs once per back-off interval."""
        with self._lock:
            active = self.active(table)
            if active is not None:  # another thread was quicker
                return active
            timer = self._waiting[table][0] if table in self._waiting else BackoffTimer(self._clock)
            after = timer.fail(BACKOFF)
            self._waiting[table] = (timer, str(why))
        about = {"table": table, "code": why.code, "error_message": str(why)}
        logger.error("deferring events: their table accepts no rows", extra=about)
        return NotNow(str(why), after=after, reason=DeferReason.SINK_UNREADY)

    def worked(self, table: str) -> None:
        """End the table's back-off after a successful insert."""
        if table in self._waiting:
            with self._lock:
                was_waiting = self._waiting.pop(table, None)
            if was_waiting:
                logger.info("resuming events: their table accepts rows", extra={"table": table})
