"""How long rows are kept: a table's TTL, brought to what the configuration says."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from .client import ClickHouse, identifier
from .schema import ATTEMPTS, Schema

#: 19.6 is the first with a TTL of tables, 20.10 the first that lets one be removed.
KNOWN_SINCE = (20, 10)
# As a server writes it down. Of dates and not of times, which end in 2106: beyond that the sum
# would begin anew, and the rows be gone at once.
_OURS = re.compile(r"toDate\((?:occurred_at|at)\) \+ toIntervalDay\((\d+)\)")


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long one table keeps its rows, and how long it should.

    Attributes:
        variable: which says how long it should.
        column: the time of a row.
        days: as configured; None for ever.
        ttl: the table's own, as the server writes it; empty for none, or no table.
    """

    table: str
    variable: str
    column: str
    days: int | None
    ttl: str

    @property
    def wanted(self) -> str:
        """The TTL that it should have."""
        return "" if self.days is None else f"toDate({self.column}) + toIntervalDay({self.days})"

    @property
    def is_foreign(self) -> bool:
        """Whether somebody else set its TTL: that one is left alone."""
        return bool(self.ttl) and not _OURS.fullmatch(self.ttl)

    @property
    def differs(self) -> bool:
        """Whether it is for :mod:`.migrate` to change it."""
        return self.ttl != self.wanted and not self.is_foreign

    @property
    def name(self) -> str:
        """The change, as it is shown."""
        return f"{self.table}: keep " + ("for ever" if self.days is None else f"{self.days} days")

    def statement(self, database: str, on_cluster: str) -> str:
        """The change, as SQL; existing parts are brought to it in the background."""
        change = f"MODIFY TTL {self.wanted}" if self.wanted else "REMOVE TTL"
        return f"ALTER TABLE {database}.{identifier(self.table)}{on_cluster} {change}"


def read(client: ClickHouse, schema: Schema) -> list[Keeping]:
    """How it is with each table.

    Raises:
        SinkError: the server cannot be asked.
    """
    rows = client.query(
        "SELECT name, engine_full FROM system.tables WHERE database = %(database)s",
        {"database": client.database},
    )
    ttls = {name: _ttl(engine) for name, engine in rows}
    return [
        Keeping(table, variable, column, days, ttls.get(table, ""))
        for table, variable, column, days in _configured(schema)
    ]


def of_nothing(schema: Schema) -> list[Keeping]:
    """How it is where there is no table yet."""
    return [Keeping(*configured, ttl="") for configured in _configured(schema)]


def notes(keepings: list[Keeping], version: tuple[int, ...]) -> Iterator[str]:
    """What of the configuration is not applied, and what to do."""
    for one in keepings:
        if one.days is not None and version < KNOWN_SINCE:
            yield (
                f"{one.variable} is not applied to {one.table}: this ClickHouse "
                f"({_dotted(version)}) has no TTL of tables, {_dotted(KNOWN_SINCE)} has; drop old "
                f"months by hand: ALTER TABLE {one.table} DROP PARTITION 202601"
            )
        elif one.is_foreign and one.ttl != one.wanted:
            yield (
                f"{one.table} has a TTL that formrelay did not set ({one.ttl}), so it is left as "
                f"it is: ALTER TABLE {one.table} REMOVE TTL to have {one.variable} decide"
            )


def _configured(schema: Schema) -> Iterator[tuple[str, str, str, int | None]]:
    for table in schema.event_tables:
        yield table, "EVENT_KEEP_DAYS", "occurred_at", _whole_days(schema.keep_events)
    yield ATTEMPTS, "WEBHOOK_KEEP_ATTEMPTS_DAYS", "at", _whole_days(schema.keep_attempts)


def _whole_days(keep: timedelta | None) -> int | None:
    return None if keep is None else math.ceil(keep / timedelta(days=1))


def _ttl(engine_full: str) -> str:
    found = re.search(r" TTL (.+?)(?: SETTINGS .*)?\Z", engine_full, re.DOTALL)
    return found.group(1) if found else ""


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
