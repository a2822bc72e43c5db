"""The configured schema: tables, retention and cluster; and how a server differs from it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from ...core.errors import ConfigError, SinkError, SinkTransient, SinkUnavailable
from .client import MODERN, ClickHouse, FailoverClickHouse, identifier

ATTEMPTS = "webhook_deliveries"
# A TTL of formrelay as the server prints it. It uses dates, because a sum of times overflows
# in 2106, and the rows would be deleted at once.
_OURS = re.compile(r"toDate\((?:occurred_at|at)\) \+ toIntervalDay\((\d+)\)")
_MACROS = {"shard", "replica"}
_NO_CLUSTER = 170
_TOO_LONG = 159


@dataclass(frozen=True, slots=True)
class TableSchema:
    """The tables that :mod:`.migrate` creates.

    Attributes:
        event_tables: the tables of events, each with its view ``…_once`` and its roll-up
            ``…_daily``.
        keep_events: how long rows of these tables are kept, rounded up to days; None for ever.
            Roll-ups are kept for ever.
        keep_attempts: how long rows of ``webhook_deliveries`` are kept.
        cluster: the name of the cluster whose hosts get the tables, as replicas; None for this
            host only.
    """

    event_tables: tuple[str, ...] = ("events",)
    keep_events: timedelta | None = None
    keep_attempts: timedelta | None = None
    cluster: str | None = None

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that rows are inserted into."""
        return (*self.event_tables, ATTEMPTS)


@dataclass(frozen=True, slots=True)
class Retention:
    """The TTL of a table, as it is and as configured.

    Attributes:
        table: name of the table.
        variable: the environment variable that sets the TTL.
        column: the column with the time of a row.
        days: the configured number of days; None for ever.
        ttl: the current TTL as the server prints it; empty without a TTL or table.
    """

    table: str
    variable: str
    column: str
    days: int | None
    ttl: str

    @property
    def wanted(self) -> str:
        """The TTL that the table should have."""
        return "" if self.days is None else f"toDate({self.column}) + toIntervalDay({self.days})"

    @property
    def is_foreign(self) -> bool:
        """Whether somebody else set the TTL, which is then not changed."""
        return bool(self.ttl) and not _OURS.fullmatch(self.ttl)

    @property
    def differs(self) -> bool:
        """Whether :mod:`.migrate` has to change the TTL."""
        return self.ttl != self.wanted and not self.is_foreign

    @property
    def name(self) -> str:
        """A description of the change."""
        return f"{self.table}: keep " + ("for ever" if self.days is None else f"{self.days} days")

    def statement(self, database: str, clause: str) -> str:
        """The SQL of the change. The server rewrites existing parts in the background."""
        change = f"MODIFY TTL {self.wanted}" if self.wanted else "REMOVE TTL"
        return f"ALTER TABLE {database}.{identifier(self.table)}{clause} {change}"


def read_retentions(client: ClickHouse, schema: TableSchema) -> list[Retention]:
    """Read the retention of each table.

    Raises:
        SinkError: a query failed.
    """
    rows = client.query(
        "SELECT name, engine_full FROM system.tables WHERE database = %(database)s",
        {"database": client.database},
    )
    return list_retentions(schema, {name: _ttl(engine) for name, engine in rows})


def list_retentions(schema: TableSchema, ttls: Mapping[str, str]) -> list[Retention]:
    """List the retention of each table.

    Args:
        ttls: the current TTLs by table.
    """
    names = ("EVENT_KEEP_DAYS", "occurred_at", _whole_days(schema.keep_events))
    found = [(table, *names) for table in schema.event_tables]
    found.append((ATTEMPTS, "WEBHOOK_KEEP_ATTEMPTS_DAYS", "at", _whole_days(schema.keep_attempts)))
    return [Retention(*one, ttls.get(one[0], "")) for one in found]


def retention_notes(retentions: list[Retention], version: tuple[int, ...]) -> Iterator[str]:
    """Describe settings that are not applied, and what to do."""
    for one in retentions:
        if one.days is not None and version < MODERN:
            yield (
                f"{one.variable} is not applied to {one.table}: this ClickHouse "
                f"({_dotted(version)}) is older than {_dotted(MODERN)}; drop old "
                f"months by hand: ALTER TABLE {one.table} DROP PARTITION 202601"
            )
        elif one.is_foreign and one.ttl != one.wanted:
            yield (
                f"{one.table} has a TTL that formrelay did not set ({one.ttl}), so it is left as "
                f"it is: ALTER TABLE {one.table} REMOVE TTL to have {one.variable} decide"
            )


def _whole_days(keep: timedelta | None) -> int | None:
    return None if keep is None else math.ceil(keep / timedelta(days=1))


def _ttl(engine_full: str) -> str:
    found = re.search(r" TTL (.+?)(?: SETTINGS .*)?\Z", engine_full, re.DOTALL)
    return found.group(1) if found else ""


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def on_cluster(schema: TableSchema) -> str:
    """The clause after a table's name in every statement that creates or changes it."""
    return f" ON CLUSTER {identifier(schema.cluster)}" if schema.cluster else ""


def check_cluster(client: ClickHouse, schema: TableSchema) -> None:
    """Check that the server supports replicated tables, and that existing tables are replicated.

    Raises:
        ConfigError: the server lacks a macro, or a table is not replicated.
    """
    if not schema.cluster:
        return
    lacking = _MACROS - {name for (name,) in client.query("SELECT macro FROM system.macros")}
    if lacking:
        raise ConfigError(
            "expected ClickHouse to have the macros shard and replica for CLICKHOUSE_CLUSTER, it "
            f"lacks {' and '.join(sorted(lacking))}: add <macros> to its configuration"
        )
    for table, engine in _engines(client, schema):
        if not engine.startswith(("Replicated", "Shared")):
            raise ConfigError(
                f"expected {table} to be replicated, because CLICKHOUSE_CLUSTER is set, got "
                f"{engine}: it was created without a cluster. Unset CLICKHOUSE_CLUSTER, or set "
                "another CLICKHOUSE_DATABASE and copy the rows (docs/clickhouse.md)"
            )


def cluster_notes(client: ClickHouse, schema: TableSchema) -> Iterator[str]:
    """Describe unsafe combinations of hosts and tables, and what to do."""
    if schema.cluster:
        return
    if isinstance(client, FailoverClickHouse):
        yield (
            "CLICKHOUSE_URL names several hosts and CLICKHOUSE_CLUSTER is not set: the tables are "
            "created on one host only, unless all names are one host or the database replicates "
            "itself"
        )
    for table, engine in _engines(client, schema):
        if engine.startswith("Replicated"):
            yield (
                f"{table} is replicated ({engine}) and CLICKHOUSE_CLUSTER is not set: new tables "
                "are created on one host only; set it to the name of the cluster"
            )
            return


@contextmanager
def explained_for_cluster(schema: TableSchema) -> Iterator[None]:
    """Explain the failure of a statement that all hosts of a cluster run.

    Raises:
        ConfigError: the cluster is unknown to the server.
        SinkTransient: a host did not run a statement in time.
    """
    try:
        yield
    except SinkError as error:
        if schema.cluster and error.code == _NO_CLUSTER:
            raise ConfigError(
                f"expected CLICKHOUSE_CLUSTER to be a cluster that the server knows, got "
                f"'{schema.cluster}': its table system.clusters lists them"
            ) from None
        # Without a code: the time-out of the connection, by default shorter than the server's.
        broke_off = error.code in (None, _TOO_LONG) and not isinstance(error, SinkUnavailable)
        if schema.cluster and broke_off:
            raise SinkTransient(
                f"expected every host of the cluster '{schema.cluster}' to apply a change in time, "
                f"got: {error}. A host that is down applies it after its restart: then run "
                "formrelay migrate again",
                code=error.code,
            ) from None
        raise


def _engines(client: ClickHouse, schema: TableSchema) -> list[tuple[str, str]]:
    rows = client.query(
        "SELECT name, engine FROM system.tables WHERE database = %(database)s ORDER BY name",
        {"database": client.database},
    )
    ours = {*schema.tables, "formrelay_migrations"}
    return [(name, engine) for name, engine in rows if name in ours]
