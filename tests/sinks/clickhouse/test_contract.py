"""The contract of all ClickHouse clients, tested over each protocol."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from formrelay.core.errors import SinkError, SinkPermanent, SinkTransient
from formrelay.sinks.clickhouse import MODERN, ClickHouse, migrate
from tests.sinks.clickhouse.conftest import COLUMNS, WHEN, count, open_clickhouse, rows
from tests.support.request_counts import counting
from tests.support.threads import at_once


def test_an_inserted_block_is_read_back_unchanged(clickhouse: ClickHouse) -> None:
    clickhouse.insert("events", COLUMNS, rows(1))
    [row] = clickhouse.query("SELECT * FROM events")
    assert row[:5] == (uuid.UUID(int=0), "view", "f1", "s1", "sé☃")
    exact = clickhouse.version() >= (20, 1)
    moment = row[5].replace(tzinfo=UTC)
    assert moment == (WHEN if exact else WHEN.replace(microsecond=0))
    assert row[7] == '{"a": 1}'


def test_an_event_id_may_be_text_and_columns_may_be_left_out(clickhouse: ClickHouse) -> None:
    clickhouse.insert("events", ("event_id", "occurred_at"), [(str(uuid.UUID(int=9)),), (WHEN,)])
    [(event_id, received)] = clickhouse.query("SELECT event_id, received_at FROM events")
    assert event_id == uuid.UUID(int=9)
    assert abs(datetime.now(UTC) - received.replace(tzinfo=UTC)) < timedelta(minutes=1)


def test_an_empty_block_sends_nothing(empty: ClickHouse) -> None:
    with counting("clickhouse") as found:
        empty.insert("no_such_table", ("a",), [[]])
    assert found == {}


def test_inserts_are_counted_by_their_result(clickhouse: ClickHouse) -> None:
    with counting("clickhouse") as found:
        clickhouse.insert("events", COLUMNS, rows(1))
        clickhouse.query("SELECT 1")
        with pytest.raises(SinkError):
            clickhouse.insert("no_such_table", ("a",), [[1]])
    assert found == {"ok": 1, "unready": 1}


def test_the_same_token_inserts_once_where_the_server_supports_tokens(
    clickhouse: ClickHouse,
) -> None:
    for token in ("batch-1", "batch-1", "batch-2"):
        clickhouse.insert("events", COLUMNS, rows(3), token=token)
    assert count(clickhouse, "events") in ((3, 6) if clickhouse.version() >= MODERN else (3, 9))
    assert count(clickhouse, "events_once") == 3


def test_an_old_server_is_not_sent_the_token(clickhouse: ClickHouse) -> None:
    clickhouse.insert("events", COLUMNS, rows(1), token="t")
    assert count(clickhouse, "events") == 1


def test_parameters_are_quoted(clickhouse: ClickHouse) -> None:
    nasty = "it's %s \\ ' OR 1=1 --"
    assert clickhouse.query("SELECT %(a)s, %(b)s", {"a": nasty, "b": 3}) == [(nasty, 3)]
    assert clickhouse.query("SELECT '100%'") == [("100%",)]


def test_names_are_quoted(clickhouse: ClickHouse) -> None:
    with pytest.raises(SinkTransient):
        clickhouse.insert("events` VALUES; DROP TABLE events", ("a",), [[1]])
    assert count(clickhouse, "events") == 0


BAD_BLOCKS: list[tuple[str, tuple[str, ...], list[list[Any]]]] = [
    ("no uuid", ("event_id",), [["s3cr3t"]]),
    ("no time", ("occurred_at",), [["s3cr3t"]]),
    ("a lone surrogate", ("type",), [["s3cr3t \ud800"]]),
    ("null", ("form_id",), [[None]]),
    ("a number for text", ("form_id",), [[7]]),
    ("ragged columns", ("type", "form_id"), [["s3cr3t"], ["b", "c"]]),
    ("a column too many", ("type",), [["a"], ["b"]]),
    ("one bad among good", ("event_id",), [[str(uuid.UUID(int=1)), "s3cr3t"]]),
]


@pytest.mark.parametrize(
    ("columns", "data"), [case[1:] for case in BAD_BLOCKS], ids=[case[0] for case in BAD_BLOCKS]
)
def test_unacceptable_rows_are_permanent_not_quoted_and_insert_nothing(
    clickhouse: ClickHouse,
    columns: tuple[str, ...],
    data: list[list[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(SinkPermanent) as caught:
        clickhouse.insert("events", columns, data)
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "s3cr3t" not in caplog.text
    assert count(clickhouse, "events") == 0
    clickhouse.insert("events", COLUMNS, rows(2))  # the connection still works
    assert count(clickhouse, "events") == 2


SCHEMA: list[tuple[str, str, tuple[str, ...]]] = [
    ("missing table", "no_such_table", ("type",)),
    ("missing column", "events", ("no_such_column",)),
]


@pytest.mark.parametrize(
    ("table", "columns"), [case[1:] for case in SCHEMA], ids=[case[0] for case in SCHEMA]
)
def test_a_foreign_schema_is_transient_and_says_what_to_run(
    clickhouse: ClickHouse, table: str, columns: tuple[str, ...]
) -> None:
    with pytest.raises(SinkTransient, match="formrelay migrate"):
        clickhouse.insert(table, columns, [["x"]])


def test_a_missing_database_is_a_transient_error_that_says_what_to_run(empty: ClickHouse) -> None:
    empty.create_database()
    empty.ping()
    empty.command(f"DROP DATABASE {empty.database}")
    with pytest.raises(SinkTransient, match="formrelay migrate") as caught:
        empty.insert("events", COLUMNS, rows(1))
    assert caught.value.code in (60, 81)


def test_the_error_of_an_invalid_query_does_not_quote_it(clickhouse: ClickHouse) -> None:
    with pytest.raises(SinkError) as caught:
        clickhouse.query("SELECT toUInt8('s3cr3t') FROM system.one")
    assert caught.value.code
    assert "s3cr3t" not in str(caught.value)
    clickhouse.ping()


def test_threads_share_a_client(clickhouse: ClickHouse) -> None:
    def work(number: int) -> None:
        for block in range(3):
            clickhouse.insert("events", COLUMNS, rows(5, start=1000 * number + 10 * block))
            assert clickhouse.query("SELECT %(n)s", {"n": number}) == [(number,)]

    at_once(work, range(4))
    assert count(clickhouse, "events") == 60


def test_a_closed_client_reconnects_at_the_next_call(clickhouse: ClickHouse, url: str) -> None:
    clickhouse.close()
    clickhouse.close()
    assert count(clickhouse, "events") == 0


EVERY = ["0001_events", "0002_webhook_deliveries", "0003_events_daily"]


def test_a_plan_lists_missing_migrations_and_changes_nothing(empty: ClickHouse, url: str) -> None:
    assert migrate.plan(empty) == EVERY
    assert migrate.plan(empty) == EVERY
    assert migrate.apply(empty) == EVERY
    assert migrate.plan(empty) == []
    assert migrate.apply(empty) == []


def test_a_migration_that_was_not_recorded_can_be_applied_again(
    clickhouse: ClickHouse,
) -> None:
    clickhouse.insert("events", COLUMNS, rows(2))
    clickhouse.command("DROP TABLE formrelay_migrations")
    assert migrate.apply(clickhouse) == EVERY
    assert count(clickhouse, "events") == 2


def test_two_simultaneous_migrations_both_succeed(empty: ClickHouse, url: str) -> None:
    clients = [open_clickhouse(url, empty.database) for _ in range(4)]
    at_once(migrate.apply, clients)
    for client in clients:
        client.close()
    assert migrate.plan(empty) == []
    empty.insert("events", COLUMNS, rows(1))
    assert count(empty, "events_once") == 1


def test_the_schema_uses_the_types_of_the_server(clickhouse: ClickHouse) -> None:
    types = dict(
        clickhouse.query(
            "SELECT name, type FROM system.columns WHERE database = %(db)s AND table = 'events'",
            {"db": clickhouse.database},
        )
    )
    modern = clickhouse.version() >= (20, 1)
    assert types["event_id"] == "UUID"
    assert types["occurred_at"] == ("DateTime64(3, 'UTC')" if modern else "DateTime('UTC')")
    assert types["type"] == ("LowCardinality(String)" if modern else "String")
