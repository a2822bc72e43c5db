"""Daily roll-ups count each event once, even if it is inserted again in other blocks."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from formrelay.core.errors import SinkTransient
from formrelay.sinks.clickhouse import ClickHouse, migrate
from tests.sinks.clickhouse.conftest import COLUMNS, WHEN, count, inserting, open_clickhouse, rows

DAY = date(2026, 1, 2)


def block(*events: tuple[int, str, str, str, datetime]) -> list[list[Any]]:
    """Events as (number, type, form, session, when)."""
    data: list[list[Any]] = [[] for _ in COLUMNS]
    for number, type_, form, session, when in events:
        row = (uuid.UUID(int=number), type_, form, "", session, when, when, "{}")
        for column, value in zip(data, row, strict=True):
            column.append(value)
    return data


def daily(client: ClickHouse, table: str = "events") -> list[tuple[Any, ...]]:
    return client.query(
        f"SELECT form_id, type, day, events, sessions FROM {table}_daily "
        "ORDER BY form_id, type, day"
    )


def test_events_and_sessions_are_counted_by_form_type_and_day(clickhouse: ClickHouse) -> None:
    late, next_day = WHEN.replace(hour=23, minute=59), WHEN + timedelta(days=1)
    clickhouse.insert(
        "events",
        COLUMNS,
        block(
            (1, "view", "f", "s1", WHEN),
            (2, "view", "f", "s1", late),
            (3, "view", "f", "s2", WHEN),
            (4, "view", "f", "", WHEN),  # without a session
            (5, "submit", "f", "s1", WHEN),
            (6, "view", "g", "", WHEN),
            (7, "view", "f", "s1", next_day),
        ),
    )
    assert daily(clickhouse) == [
        ("f", "submit", DAY, 1, 1),
        ("f", "view", DAY, 4, 2),
        ("f", "view", DAY + timedelta(days=1), 1, 1),
        ("g", "view", DAY, 1, 0),
    ]
    [row] = clickhouse.query(
        "SELECT day, type, events, sessions FROM events_daily "
        "WHERE form_id = 'f' AND type = 'submit'"
    )
    assert row == (DAY, "submit", 1, 1)


def test_repeated_and_overlapping_blocks_count_once(
    clickhouse: ClickHouse,
) -> None:
    clickhouse.insert("events", COLUMNS, rows(6), token="a")
    clickhouse.insert("events", COLUMNS, rows(6), token="a")
    clickhouse.insert("events", COLUMNS, rows(6), token="b")  # the same rows in another batch
    clickhouse.insert("events", COLUMNS, rows(6, start=3), token="c")
    assert count(clickhouse, "events") > 9
    assert daily(clickhouse) == [("f1", "view", DAY, 9, 1)]
    clickhouse.command("OPTIMIZE TABLE events_daily_states FINAL")
    assert daily(clickhouse) == [("f1", "view", DAY, 9, 1)]


def test_a_block_that_failed_before_the_roll_up_is_counted_when_retried(
    clickhouse: ClickHouse,
) -> None:
    clickhouse.command("RENAME TABLE events_daily_states TO away")
    with pytest.raises(SinkTransient):
        clickhouse.insert("events", COLUMNS, rows(4), token="a")
    clickhouse.command("RENAME TABLE away TO events_daily_states")
    clickhouse.insert("events", COLUMNS, rows(4), token="a")
    assert daily(clickhouse) == [("f1", "view", DAY, 4, 1)]
    assert count(clickhouse, "events_once") == 4


def without_daily(client: ClickHouse) -> None:
    """Remove the roll-ups, as on a server of an earlier version."""
    for name in ("events_daily", "events_daily_feed", "events_daily_states"):
        client.command(f"DROP TABLE {name}")
    client.command("DROP TABLE formrelay_migrations")


def test_events_from_before_the_migration_are_counted_in_every_month(
    clickhouse: ClickHouse,
) -> None:
    without_daily(clickhouse)
    months = [datetime(2025, month, 3, tzinfo=UTC) for month in range(1, 13)]
    events = [(n, "view", "f", f"s{n}", when) for n, when in enumerate(months)]
    clickhouse.insert("events", COLUMNS, block(*events))
    migrate.apply(clickhouse)
    clickhouse.insert("events", COLUMNS, block(events[0], (99, "view", "f", "s0", months[0])))
    counted = [(row[2].month, row[3], row[4]) for row in daily(clickhouse)]
    assert counted == [(1, 2, 1), *((month, 1, 1) for month in range(2, 13))]


def test_a_repeated_migration_counts_each_event_once(clickhouse: ClickHouse) -> None:
    clickhouse.insert("events", COLUMNS, rows(5))
    clickhouse.command("DROP TABLE formrelay_migrations")
    assert "0003_events_daily" in migrate.apply(clickhouse)
    assert daily(clickhouse) == [("f1", "view", DAY, 5, 1)]


def test_events_inserted_during_the_migration_are_counted_once(
    clickhouse: ClickHouse, url: str
) -> None:
    without_daily(clickhouse)
    clickhouse.insert("events", COLUMNS, rows(50))
    other = open_clickhouse(url, clickhouse.database)
    with inserting(other, start=50) as inserted:
        migrate.apply(clickhouse)
    other.close()
    assert daily(clickhouse) == [("f1", "view", DAY, inserted(), 1)]
