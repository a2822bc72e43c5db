"""Configured tables of events, and retention."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from formrelay.sinks.clickhouse import ClickHouse, TableSchema, migrate
from formrelay.sinks.clickhouse.client import MODERN
from formrelay.sinks.clickhouse.schema import read_retentions
from tests.sinks.clickhouse.conftest import COLUMNS, count, open_clickhouse, rows
from tests.support.threads import at_once

FILES = ["0001_events", "0002_webhook_deliveries", "0003_events_daily"]
WITH_PAYMENTS = TableSchema(event_tables=("events", "payments"))


def test_each_table_of_events_has_columns_views_and_a_roll_up(
    empty: ClickHouse,
) -> None:
    migrate.apply(empty, WITH_PAYMENTS)
    empty.insert("payments", COLUMNS, rows(3))
    empty.insert("payments", COLUMNS, rows(3))
    assert count(empty, "payments_once") == 3
    assert empty.query("SELECT events FROM payments_daily") == [(3,)]
    assert count(empty, "events") == count(empty, "events_daily") == 0
    of_each = "SELECT name, type FROM system.columns WHERE database = %(db)s AND table = %(t)s"
    columns, others = (
        empty.query(of_each, {"db": empty.database, "t": table}) for table in ("events", "payments")
    )
    assert columns == others


def test_the_next_migration_creates_a_table_configured_later(
    clickhouse: ClickHouse,
) -> None:
    later = ["0001_events:payments", "0003_events_daily:payments"]
    assert migrate.plan(clickhouse, WITH_PAYMENTS) == later
    assert migrate.apply(clickhouse, WITH_PAYMENTS) == later
    assert migrate.plan(clickhouse, WITH_PAYMENTS) == []
    # A table that is no longer configured stays.
    assert migrate.apply(clickhouse) == []
    assert count(clickhouse, "payments") == 0


def ttl(client: ClickHouse, table: str) -> str:
    return next(one.ttl for one in read_retentions(client, TableSchema()) if one.table == table)


#: Debian's native server is too old for TTL; it has tests of its own below.
with_ttl = pytest.mark.parametrize("url", ["http", "embedded"], indirect=True)


def old_and_new(client: ClickHouse) -> None:
    """A row that is 40 days old and a new row, in separate parts."""
    now = datetime.now(UTC)
    for number, when in enumerate((now - timedelta(days=40), now)):
        data: list[list[Any]] = rows(1, start=number)
        data[COLUMNS.index("occurred_at")] = [when]
        client.insert("events", COLUMNS, data)


@with_ttl
def test_rows_older_than_the_retention_are_deleted_and_counts_stay(
    clickhouse: ClickHouse,
) -> None:
    old_and_new(clickhouse)
    schema = TableSchema(keep_events=timedelta(days=30))
    assert migrate.plan(clickhouse, schema) == ["events: keep 30 days"]
    assert migrate.apply(clickhouse, schema) == ["events: keep 30 days"]
    clickhouse.command("OPTIMIZE TABLE events FINAL")
    assert count(clickhouse, "events") == 1
    assert clickhouse.query("SELECT sum(events) FROM events_daily") == [(2,)]
    assert migrate.apply(clickhouse, schema) == []


def test_without_a_retention_nothing_is_deleted(clickhouse: ClickHouse) -> None:
    old_and_new(clickhouse)
    assert migrate.apply(clickhouse) == []
    clickhouse.command("OPTIMIZE TABLE events FINAL")
    assert count(clickhouse, "events") == 2


@with_ttl
def test_a_changed_or_removed_retention_is_applied(
    empty: ClickHouse,
) -> None:
    migrate.apply(empty)
    both = TableSchema(keep_events=timedelta(days=30), keep_attempts=timedelta(days=6.5))
    assert migrate.apply(empty, both) == ["events: keep 30 days", "webhook_deliveries: keep 7 days"]
    assert ttl(empty, "webhook_deliveries") == "toDate(at) + toIntervalDay(7)"
    longer = TableSchema(keep_events=timedelta(days=60), keep_attempts=timedelta(days=7))
    assert migrate.apply(empty, longer) == ["events: keep 60 days"]
    assert ttl(empty, "events") == "toDate(occurred_at) + toIntervalDay(60)"
    assert migrate.apply(empty) == [
        "events: keep for ever",
        "webhook_deliveries: keep for ever",
    ]
    assert ttl(empty, "events") == ttl(empty, "webhook_deliveries") == ""


def test_retention_is_planned_before_the_tables_exist(empty: ClickHouse) -> None:
    schema = TableSchema(event_tables=("events", "payments"), keep_events=timedelta(days=1))
    planned = migrate.plan(empty, schema)
    assert planned[:3] == ["0001_events", "0001_events:payments", "0002_webhook_deliveries"]
    done = migrate.apply(empty, schema)
    keeps = ["events: keep 1 days", "payments: keep 1 days"]
    assert done[5:] == (keeps if empty.version() >= MODERN else [])
    assert migrate.plan(empty, schema) == []


def test_a_server_without_ttl_gets_a_note_and_no_statement(
    clickhouse: ClickHouse,
) -> None:
    schema = TableSchema(keep_events=timedelta(days=30))
    assert migrate.notes(clickhouse) == []
    migrate.apply(clickhouse, schema)
    notes = migrate.notes(clickhouse, schema)
    if clickhouse.version() >= MODERN:
        assert notes == []
    else:
        [note] = notes
        assert note.startswith("EVENT_KEEP_DAYS is not applied to events: this ClickHouse (18.16")


@with_ttl
def test_a_foreign_ttl_is_not_changed_and_reported(clickhouse: ClickHouse) -> None:
    clickhouse.command("ALTER TABLE events MODIFY TTL toDateTime(received_at) + INTERVAL 3 YEAR")
    for schema in (TableSchema(), TableSchema(keep_events=timedelta(days=30))):
        assert migrate.apply(clickhouse, schema) == []
        [note] = migrate.notes(clickhouse, schema)
        assert note.startswith("events has a TTL that formrelay did not set (toDateTime(received")


@pytest.mark.parametrize("keep", [timedelta(days=30), None], ids=["set", "removed"])
def test_simultaneous_runs_apply_the_same_retention(
    clickhouse: ClickHouse, url: str, keep: timedelta | None
) -> None:
    if keep is None:
        migrate.apply(clickhouse, TableSchema(keep_events=timedelta(days=30)))
    clients = [open_clickhouse(url, clickhouse.database) for _ in range(4)]
    at_once(lambda client: migrate.apply(client, TableSchema(keep_events=keep)), clients)
    for client in clients:
        client.close()
    assert migrate.plan(clickhouse, TableSchema(keep_events=keep)) == []


def test_rows_are_partitioned_by_month_and_the_roll_up_by_year(clickhouse: ClickHouse) -> None:
    keys = dict(
        clickhouse.query(
            "SELECT name, partition_key FROM system.tables WHERE database = %(db)s",
            {"db": clickhouse.database},
        )
    )
    assert keys["events"] == "toYYYYMM(occurred_at)"
    assert keys["webhook_deliveries"] == "toYYYYMM(at)"
    assert keys["events_daily_states"] == "toYear(day)"


class _Parsing:
    """A modern server without a cluster, which only parses `ON CLUSTER` statements."""

    def __init__(self, client: ClickHouse) -> None:
        self._client = client
        self.database = client.database
        self.read: list[str] = []

    def command(self, sql: str) -> None:
        self._client.command(f"EXPLAIN AST {sql}")
        self.read.append(sql)

    def query(self, sql: str, params: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        if "system.macros" in sql:
            return [("shard",), ("replica",)]
        if "clusterAllReplicas" in sql:
            self.command(sql % {name: repr(value) for name, value in (params or {}).items()})
            return []
        return self._client.query(sql, params)

    def create_database(self, cluster: str | None = None) -> None: ...

    def insert(self, *_: object, **__: object) -> None: ...

    def version(self) -> tuple[int, ...]:
        return self._client.version()


def test_a_modern_server_parses_every_statement_for_a_cluster(embedded_url: str) -> None:
    # chdb has no replicas; test_cluster.py runs the statements on an old server.
    client = open_clickhouse(embedded_url, "default")
    parsing: Any = _Parsing(client)
    migrate.apply(parsing, TableSchema(keep_events=timedelta(days=30), cluster="pair"))
    changes = [one for one in parsing.read if one.startswith(("CREATE", "ALTER"))]
    assert len(changes) == 9
    assert all(" ON CLUSTER `pair`" in one for one in changes)
    tables = [one for one in changes if one.startswith("CREATE TABLE")]
    assert all("ENGINE = Replicated" in one and "_window" not in one for one in tables)
    assert changes[-1].endswith("MODIFY TTL toDate(occurred_at) + toIntervalDay(30)")
    assert any("clusterAllReplicas(`pair`, system.processes)" in one for one in parsing.read)
    client.close()
