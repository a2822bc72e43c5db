"""Bring a ClickHouse's schema up to date: ordered files, each applied once.

ClickHouse has no transactions for DDL and no lock to take, so every statement
may run twice (``IF NOT EXISTS``, or rows that count once), and two runs at once
do the same work twice, harmlessly. On a cluster each statement is carried out
by all of its hosts, in one order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ...core.errors import SinkError
from . import cluster, inflight, retention
from .client import ClickHouse, identifier
from .errors import NO_DATABASE, NO_TABLE
from .schema import Schema

# What a server answers to one of two runs that do the same thing at once: table, metadata or
# database exists already; another thread is creating it; a change of the table is not through yet.
_RACE_LOST = {57, 58, 82, 337, 517}
_NO_TTL_TO_REMOVE = 36
_RACE_TRIES = 20
_RACE_WAIT_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Migration:
    """One thing to do.

    Attributes:
        name: of its file, without the ending; with ``:table`` for a table of events that is not
            ``events``. Or, where ``text`` is empty, the change of how long a table keeps its rows.
        text: of its file.
        table: the table of events that it is about; empty for none.
    """

    name: str
    text: str
    table: str = ""


def plan(client: ClickHouse, schema: Schema | None = None) -> list[Migration]:
    """What this server still lacks, in order; changes nothing.

    Raises:
        SinkError: the server cannot be asked.
    """
    schema = schema or Schema()
    try:
        keepings = _keepings(client, schema)
        done = _recorded(client)
    except SinkError as error:
        # Without its database a server does not even tell its version.
        if error.code != NO_DATABASE:
            raise
        done, keepings = set(), retention.of_nothing(schema)
    missing = [one for one in _migrations(schema) if one.name not in done]
    return [*missing, *(Migration(one.name, "") for one in keepings if one.differs)]


def apply(client: ClickHouse, schema: Schema | None = None) -> list[str]:
    """Do what is missing, the database first; the names of what was done.

    Raises:
        SinkError: a statement failed; what went before it stays, and another
            run goes on from there.
        ConfigError: the server has no such cluster, or tables that are no replicas.
    """
    schema = schema or Schema()
    on_cluster = cluster.clause(schema)
    with cluster.waiting(schema):
        _patiently(lambda: client.create_database(schema.cluster))
        cluster.check(client, schema)
        missing = [one for one in plan(client, schema) if one.text]
        if missing:
            _patiently(lambda: client.command(_record_table(client, schema)))
            values = placeholders(client, schema)
        for migration in missing:
            _apply(client, schema, migration, values)
            client.insert("formrelay_migrations", ["name"], [[migration.name]])
        kept = []
        for one in _keepings(client, schema):
            if one.differs:
                _keep(client, schema, one, on_cluster)
                kept.append(one.name)
    return [*(migration.name for migration in missing), *kept]


def notes(client: ClickHouse, schema: Schema | None = None) -> list[str]:
    """What of the configuration is not, or not safely, as it says: a line each.

    Raises:
        SinkError: the server cannot be asked.
    """
    schema = schema or Schema()
    try:
        found = retention.notes(retention.read(client, schema), client.version())
        return [*found, *cluster.notes(client, schema)]
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


def placeholders(client: ClickHouse, schema: Schema) -> dict[str, Any]:
    """What stands for ``{name}`` in a migration on this server.

    18.16 (Debian's) knows none of DateTime64, LowCardinality outside an
    experiment, and deduplication for a table that is not replicated.
    """
    version = client.version()
    modern_times = version >= (20, 1)
    window = client.query(
        "SELECT count() FROM system.merge_tree_settings "
        "WHERE name = 'non_replicated_deduplication_window'"
    )
    has_window = window[0][0] and not schema.cluster
    return {
        "database": identifier(client.database),
        "on_cluster": cluster.clause(schema),
        "engine": _Engine(client.database, replicated=bool(schema.cluster)),
        "datetime64": "DateTime64(3, 'UTC')" if modern_times else "DateTime('UTC')",
        "now": "now64(3, 'UTC')" if modern_times else "now()",
        "low_cardinality": "LowCardinality(String)" if version >= (19, 1) else "String",
        "dedup_window": "SETTINGS non_replicated_deduplication_window = 1000" if has_window else "",
        "month": "{month}",  # filled in by _apply
    }


def _migrations(schema: Schema) -> list[Migration]:
    """Every migration, one that is about the tables of events once for each of them."""
    found = []
    for name, text in _files():
        if "{table}" not in text:
            found.append(Migration(name, text))
            continue
        found += [
            # The table that was there first keeps the name that was recorded.
            Migration(name if table == "events" else f"{name}:{table}", text, table)
            for table in schema.event_tables
        ]
    return found


def _recorded(client: ClickHouse) -> set[str]:
    try:
        return {row[0] for row in client.query("SELECT name FROM formrelay_migrations")}
    except SinkError as error:
        if error.code != NO_TABLE:
            raise
        return set()


def _files() -> list[tuple[str, str]]:
    folder = resources.files(__package__ or "") / "migrations"
    files = (file for file in folder.iterdir() if file.name.endswith(".sql"))
    return sorted((file.name.removesuffix(".sql"), file.read_text("utf-8")) for file in files)


def _apply(
    client: ClickHouse, schema: Schema, migration: Migration, values: dict[str, Any]
) -> None:
    for statement in _statements(migration.text, {**values, "table": migration.table}):
        months = [""]
        if "{month}" in statement:
            inflight.wait(client, schema, migration.table)
            # Each for itself: the sets of all events may be more than the server's memory.
            months = _months(client, migration.table)
        for month in months:
            sql = statement.replace("{month}", month)
            _patiently(lambda sql=sql: client.command(sql))  # type: ignore[misc]


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


def _keepings(client: ClickHouse, schema: Schema) -> list[retention.Keeping]:
    if client.version() < retention.KNOWN_SINCE:
        return []
    return retention.read(client, schema)


def _keep(client: ClickHouse, schema: Schema, one: retention.Keeping, on_cluster: str) -> None:
    statement = one.statement(identifier(client.database), on_cluster)
    try:
        _patiently(lambda: client.command(statement))
    except SinkError as error:
        # Another run has removed it.
        if error.code != _NO_TTL_TO_REMOVE or one in _differing(client, schema):
            raise


def _differing(client: ClickHouse, schema: Schema) -> list[retention.Keeping]:
    return [one for one in _keepings(client, schema) if one.differs]


def _record_table(client: ClickHouse, schema: Schema) -> str:
    engine = _Engine(client.database, replicated=bool(schema.cluster))
    return (
        f"CREATE TABLE IF NOT EXISTS {identifier(client.database)}.formrelay_migrations"
        f"{cluster.clause(schema)} (name String, applied_at DateTime DEFAULT now()) "
        f"ENGINE = {engine:ReplacingMergeTree formrelay_migrations} ORDER BY name"
    )


def _patiently(step: Callable[[], None]) -> None:
    """Run a step that another run may be doing at this moment."""
    for tries_left in reversed(range(_RACE_TRIES)):
        try:
            step()
            return
        except SinkError as error:
            if error.code not in _RACE_LOST or not tries_left:
                raise
            time.sleep(_RACE_WAIT_SECONDS)
