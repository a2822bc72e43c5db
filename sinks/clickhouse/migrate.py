"""Migrates the schema of a ClickHouse: applies ordered files, each once.

ClickHouse has neither transactions for DDL nor locks, so every statement is idempotent
(``IF NOT EXISTS``, or rows that count once), and two runs at the same time are harmless. On a
cluster, all hosts run each statement, in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from importlib import resources
from typing import Any

from ...core.errors import SinkError, SinkTransient
from .client import MODERN, ClickHouse, identifier
from .errors import NO_DATABASE, NO_TABLE
from .schema import (
    Retention,
    TableSchema,
    check_cluster,
    cluster_notes,
    explained_for_cluster,
    list_retentions,
    on_cluster,
    read_retentions,
    retention_notes,
)

# Error codes of a statement that another run executes at the same time: the table, metadata or
# database exists already; another thread is creating it; a change of the table is in progress.
_RACE_LOST = {57, 58, 82, 337, 517}
_NO_TTL_TO_REMOVE = 36
_RACE_TRIES = 20
_POLL_SECONDS = 0.05
_INSERTS_END_WITHIN = timedelta(minutes=2)
#: How long to wait for inserts on the other hosts, which old servers cannot list.
_GRACE = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Migration:
    """A change to the tables.

    Attributes:
        name: name of the file without its ending; followed by ``:table`` for a table of events
            other than ``events``.
        text: text of the file.
        table: the table of events that it changes; empty if there is none.
    """

    name: str
    text: str
    table: str = ""


def plan(client: ClickHouse, schema: TableSchema | None = None) -> list[str]:
    """List the missing migrations, then the missing changes of retention, in order.

    Changes nothing.

    Raises:
        SinkError: a query failed.
    """
    schema = schema or TableSchema()
    try:
        retentions = _differing(client, schema)
        missing = _missing(client, schema)
    except SinkError as error:
        # The database is missing, so the server refuses every query.
        if error.code != NO_DATABASE:
            raise
        retentions = [one for one in list_retentions(schema, {}) if one.differs]
        missing = _migrations(schema)
    return _names(missing, retentions)


def apply(client: ClickHouse, schema: TableSchema | None = None) -> list[str]:
    """Create the database and apply what :func:`plan` lists; returns that list.

    Raises:
        SinkError: a statement failed. Earlier changes stay, and another run continues.
        ConfigError: the cluster is unknown, or a table is not replicated.
    """
    schema = schema or TableSchema()
    with explained_for_cluster(schema):
        _patiently(lambda: client.create_database(schema.cluster))
        check_cluster(client, schema)
        missing = _missing(client, schema)
        if missing:
            _patiently(lambda: client.command(_record_table(client, schema)))
            values = placeholders(client, schema)
        for migration in missing:
            _apply(client, schema, migration, values)
            client.insert("formrelay_migrations", ["name"], [[migration.name]])
        retentions = _differing(client, schema)
        for one in retentions:
            _keep(client, schema, one)
    return _names(missing, retentions)


def _names(missing: list[Migration], retentions: list[Retention]) -> list[str]:
    return [*(one.name for one in missing), *(one.name for one in retentions)]


def notes(client: ClickHouse, schema: TableSchema | None = None) -> list[str]:
    """Describe settings that are not applied, or are unsafe; one line for each.

    Raises:
        SinkError: a query failed.
    """
    schema = schema or TableSchema()
    try:
        found = retention_notes(read_retentions(client, schema), client.version())
        return [*found, *cluster_notes(client, schema)]
    except SinkError as error:
        if error.code != NO_DATABASE:
            raise
        return []


class _Engine:
    """``{engine:ReplacingMergeTree events}``: a table's engine, replicated on a cluster."""

    def __init__(self, database: str, *, replicated: bool) -> None:
        self._database, self._replicated = database, replicated

    def __format__(self, spec: str) -> str:
        family, table = spec.split()
        if not self._replicated:
            return family
        path = f"/clickhouse/tables/{{shard}}/{self._database}/{table}"
        return f"Replicated{family}('{path}', '{{replica}}')"


def placeholders(client: ClickHouse, schema: TableSchema) -> dict[str, Any]:
    """The values of ``{name}`` in a migration, for this server.

    Version 18.16 (Debian) has no DateTime64, no stable LowCardinality, and no deduplication in
    tables that are not replicated.
    """
    is_modern = client.version() >= MODERN
    window = "SETTINGS non_replicated_deduplication_window = 1000"
    return {
        "database": identifier(client.database),
        "on_cluster": on_cluster(schema),
        "engine": _Engine(client.database, replicated=bool(schema.cluster)),
        "datetime64": "DateTime64(3, 'UTC')" if is_modern else "DateTime('UTC')",
        "now": "now64(3, 'UTC')" if is_modern else "now()",
        "low_cardinality": "LowCardinality(String)" if is_modern else "String",
        # Replicated tables deduplicate by default.
        "dedup_window": window if is_modern and not schema.cluster else "",
        "month": "{month}",  # filled in by _apply
    }


def _migrations(schema: TableSchema) -> list[Migration]:
    """List all migrations; a migration of event tables occurs once for each table."""
    found = []
    for name, text in _files():
        if "{table}" not in text:
            found.append(Migration(name, text))
            continue
        found += [
            # The migrations of the default table are named without the table.
            Migration(name if table == "events" else f"{name}:{table}", text, table)
            for table in schema.event_tables
        ]
    return found


def _missing(client: ClickHouse, schema: TableSchema) -> list[Migration]:
    """List the migrations that are not recorded as applied."""
    try:
        done = {row[0] for row in client.query("SELECT name FROM formrelay_migrations")}
    except SinkError as error:
        if error.code != NO_TABLE:
            raise
        done = set()
    return [one for one in _migrations(schema) if one.name not in done]


def _files() -> list[tuple[str, str]]:
    folder = resources.files(__package__ or "") / "migrations"
    files = (file for file in folder.iterdir() if file.name.endswith(".sql"))
    return sorted((file.name.removesuffix(".sql"), file.read_text("utf-8")) for file in files)


def _apply(
    client: ClickHouse, schema: TableSchema, migration: Migration, values: dict[str, Any]
) -> None:
    for statement in _statements(migration.text, {**values, "table": migration.table}):
        months = [""]
        if "{month}" in statement:
            _wait_for_inserts(client, schema, migration.table)
            # One month at a time, so that the query fits in the server's memory.
            months = _months(client, migration.table)
        for month in months:
            sql = statement.replace("{month}", month)
            _patiently(lambda sql=sql: client.command(sql))  # type: ignore[misc]


def _wait_for_inserts(client: ClickHouse, schema: TableSchema, table: str) -> None:
    """Wait until every insert into ``table`` that is running now has ended.

    An insert fills the views that existed when it began, and its rows are visible when it ends.
    So rows of an insert that runs while a view is created are in neither the view nor the query
    that backfills it. On a cluster, also waits until the rows have arrived on this host.

    Raises:
        SinkTransient: an insert did not end within two minutes.
    """
    asks_all = client.version() >= MODERN
    if schema.cluster and not asks_all:
        time.sleep(_GRACE.total_seconds())
    processes = "system.processes"
    if schema.cluster and asks_all:
        processes = f"clusterAllReplicas({identifier(schema.cluster)}, system.processes)"
    deadline = time.monotonic() + _INSERTS_END_WITHIN.total_seconds()
    begun = _inserts_into(client, processes, table)
    while begun:
        if time.monotonic() > deadline:
            raise SinkTransient(
                f"expected running inserts into {table} to end, {len(begun)} did not: "
                "check system.processes, then run formrelay migrate again"
            )
        time.sleep(_POLL_SECONDS)
        begun &= _inserts_into(client, processes, table)
    if schema.cluster:
        client.command(f"SYSTEM SYNC REPLICA {identifier(client.database)}.{identifier(table)}")


def _inserts_into(client: ClickHouse, processes: str, table: str) -> set[str]:
    rows = client.query(
        f"SELECT query_id FROM {processes} WHERE positionCaseInsensitive(query, 'insert') > 0 "  # noqa: S608 - a name of ours
        "AND position(query, %(table)s) > 0 AND position(query, 'system.processes') = 0",
        {"table": table},
    )
    return {str(query_id) for (query_id,) in rows}


def _statements(text: str, values: dict[str, Any]) -> tuple[str, ...]:
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("--"))
    filled = "\n".join(lines).format_map(values)
    return tuple(part.strip() for part in filled.split(";\n") if part.strip(" \n;"))


def _months(client: ClickHouse, table: str) -> list[str]:
    rows = client.query(
        "SELECT DISTINCT partition FROM system.parts WHERE active "
        "AND database = %(database)s AND table = %(table)s ORDER BY partition",
        {"database": client.database, "table": table},
    )
    return [str(partition) for (partition,) in rows]


def _differing(client: ClickHouse, schema: TableSchema) -> list[Retention]:
    if client.version() < MODERN:
        return []
    return [one for one in read_retentions(client, schema) if one.differs]


def _keep(client: ClickHouse, schema: TableSchema, one: Retention) -> None:
    statement = one.statement(identifier(client.database), on_cluster(schema))
    try:
        _patiently(lambda: client.command(statement))
    except SinkError as error:
        # Another run may have removed it.
        if error.code != _NO_TTL_TO_REMOVE or one in _differing(client, schema):
            raise


def _record_table(client: ClickHouse, schema: TableSchema) -> str:
    engine = _Engine(client.database, replicated=bool(schema.cluster))
    return (
        f"CREATE TABLE IF NOT EXISTS {identifier(client.database)}.formrelay_migrations"
        f"{on_cluster(schema)} (name String, applied_at DateTime DEFAULT now()) "
        f"ENGINE = {engine:ReplacingMergeTree formrelay_migrations} ORDER BY name"
    )


def _patiently(step: Callable[[], None]) -> None:
    """Run a step; try again while another run executes it at the same time."""
    for tries_left in reversed(range(_RACE_TRIES)):
        try:
            step()
            return
        except SinkError as error:
            if error.code not in _RACE_LOST or not tries_left:
                raise
            time.sleep(_POLL_SECONDS)
