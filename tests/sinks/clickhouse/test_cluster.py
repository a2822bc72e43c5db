"""A cluster of two of Debian's servers that are replicas, with a ZooKeeper.

Not in the contract, because chdb, the newer engine of the tests, has no replicas.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from formrelay.core.errors import ConfigError, SinkTransient
from formrelay.sinks.clickhouse import ClickHouse, TableSchema, migrate
from formrelay.sinks.clickhouse.schema import check_cluster
from tests.sinks.clickhouse.conftest import COLUMNS, count, inserting, open_clickhouse, rows
from tests.support.servers import ClickHouseCluster
from tests.support.threads import at_once
from tests.support.waiting import wait_until

Nodes = tuple[ClickHouse, ClickHouse]
SCHEMA = TableSchema(cluster=ClickHouseCluster.name)
WITH_PAYMENTS = TableSchema(event_tables=("events", "payments"), cluster=ClickHouseCluster.name)


@contextmanager
def database_of_our_own(cluster: ClickHouseCluster) -> Iterator[Nodes]:
    """A client of each node, for a database of this test that does not exist yet."""
    name = "t" + secrets.token_hex(4)
    first, second = (open_clickhouse(node.url, name) for node in cluster.nodes)
    yield first, second
    first.create_database(cluster.name)
    first.command(f"DROP DATABASE {name} ON CLUSTER {cluster.name}")
    first.close()
    second.close()


@pytest.fixture
def nodes(
    clickhouse_cluster: ClickHouseCluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Nodes]:
    """Clients of both nodes, without formrelay's database."""
    monkeypatch.setattr(migrate, "_GRACE", timedelta(0))  # for the test that needs it
    with database_of_our_own(clickhouse_cluster) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def migrated(clickhouse_cluster: ClickHouseCluster) -> Iterator[Nodes]:
    """Clients of both nodes, after a migration on the first node."""
    with database_of_our_own(clickhouse_cluster) as nodes:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(migrate, "_GRACE", timedelta(0))
            migrate.apply(nodes[0], WITH_PAYMENTS)
        yield nodes


def engines(client: ClickHouse) -> dict[str, str]:
    found = client.query(
        "SELECT name, engine_full FROM system.tables WHERE database = %(db)s",
        {"db": client.database},
    )
    return dict(found)


def test_a_migration_on_one_node_creates_every_table_on_both(migrated: Nodes) -> None:
    first, second = migrated
    assert engines(first) == engines(second)
    tables = {name: engine for name, engine in engines(second).items() if "MergeTree" in engine}
    assert {"events", "payments_daily_states", "formrelay_migrations"} <= tables.keys()
    for name, engine in tables.items():
        path = f"('/clickhouse/tables/{{shard}}/{first.database}/{name}', '{{replica}}')"
        assert engine.startswith("Replicated")
        assert path in engine
    wait_until(lambda: migrate.plan(second, WITH_PAYMENTS) == [])
    assert migrate.apply(second, WITH_PAYMENTS) == []


def test_rows_inserted_on_one_node_are_read_and_counted_on_the_other(migrated: Nodes) -> None:
    first, second = migrated
    first.insert("events", COLUMNS, rows(5))
    second.insert("events", COLUMNS, rows(5, start=3))
    for node in migrated:
        wait_until(lambda node=node: count(node, "events_once") == 8)  # type: ignore[misc]
        wait_until(lambda node=node: node.query("SELECT events FROM events_daily") == [(8,)])  # type: ignore[misc]


def test_the_same_block_sent_to_both_nodes_counts_once(migrated: Nodes) -> None:
    first, second = migrated
    for node in (first, second, first):
        node.insert("payments", COLUMNS, rows(5))
    wait_until(lambda: count(second, "payments") == 5)
    assert count(first, "payments") == 5
    for node in migrated:
        wait_until(lambda node=node: node.query("SELECT events FROM payments_daily") == [(5,)])  # type: ignore[misc]


def test_a_cluster_that_is_no_longer_configured_is_reported(migrated: Nodes) -> None:
    assert migrate.notes(migrated[0], WITH_PAYMENTS) == []
    [note] = migrate.notes(migrated[0])
    assert "events is replicated (ReplicatedReplacingMergeTree)" in note


def test_simultaneous_migrations_on_both_nodes_succeed(nodes: Nodes) -> None:
    at_once(lambda node: migrate.apply(node, SCHEMA), nodes)
    assert engines(nodes[0]) == engines(nodes[1])
    wait_until(lambda: migrate.plan(nodes[0], SCHEMA) == migrate.plan(nodes[1], SCHEMA) == [])


def test_the_roll_up_counts_older_events_and_events_inserted_elsewhere_meanwhile(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = nodes
    migrate.apply(first, SCHEMA)
    for name in ("events_daily", "events_daily_feed", "events_daily_states"):
        first.command(f"DROP TABLE {name} ON CLUSTER pair")
    first.command("ALTER TABLE formrelay_migrations DELETE WHERE name = '0003_events_daily'")
    wait_until(lambda: "0003_events_daily" in migrate.plan(first, SCHEMA))
    second.insert("events", COLUMNS, rows(50))
    monkeypatch.setattr(migrate, "_GRACE", timedelta(seconds=1))
    with inserting(second, start=50) as inserted:
        assert migrate.apply(first, SCHEMA) == ["0003_events_daily"]
    wanted = [(inserted(),)]
    for node in nodes:
        wait_until(lambda node=node: node.query("SELECT events FROM events_daily") == wanted)  # type: ignore[misc]


def test_an_unknown_cluster_is_an_error_that_names_it(nodes: Nodes) -> None:
    with pytest.raises(ConfigError, match=r"CLICKHOUSE_CLUSTER .* got 'trio'"):
        migrate.apply(nodes[0], TableSchema(cluster="trio"))


def test_tables_created_without_the_cluster_are_refused(
    nodes: Nodes,
) -> None:
    migrate.apply(nodes[0])
    with pytest.raises(ConfigError, match=r"expected events to be replicated, .* got Replacing"):
        migrate.apply(nodes[0], SCHEMA)


def test_a_server_without_macros_is_an_error_that_names_them(clickhouse_url: str) -> None:
    client = open_clickhouse(clickhouse_url, "default")
    with pytest.raises(ConfigError, match=r"the macros shard and replica"):
        check_cluster(client, SCHEMA)
    client.close()


def test_a_node_that_is_down_is_reported_and_gets_its_tables_later(
    clickhouse_cluster: ClickHouseCluster, nodes: Nodes
) -> None:
    here, away = clickhouse_cluster.nodes
    impatient = open_clickhouse(here.url, nodes[0].database, timeout=timedelta(seconds=1))
    away.kill()
    try:
        with pytest.raises(SinkTransient, match="expected every host of the cluster 'pair'"):
            migrate.apply(impatient, SCHEMA)
    finally:
        away.start()
        impatient.close()
    migrate.apply(nodes[0], SCHEMA)
    assert engines(nodes[0]) == engines(nodes[1])
