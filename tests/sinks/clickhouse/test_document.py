"""The SQL in docs/clickhouse.md runs on the servers it is written for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from formrelay.sinks.clickhouse import ClickHouse, migrate
from tests.sinks.clickhouse.conftest import COLUMNS, rows
from tests.support.waiting import wait_until

DOCUMENT = Path(__file__).parents[3] / "docs" / "clickhouse.md"
BLOCKS = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@pytest.fixture
def filled(clickhouse: ClickHouse) -> ClickHouse:
    """Two events of the form signup; one has the properties plan and seats."""
    data: list[list[Any]] = rows(2)
    data[COLUMNS.index("form_id")] = ["signup", "signup"]
    data[COLUMNS.index("properties")] = ['{"plan":"pro","seats":3}', "{}"]
    clickhouse.insert("events", COLUMNS, data)
    return clickhouse


def test_queries_by_day_and_by_property(
    filled: ClickHouse,
) -> None:
    selects = [block for block in BLOCKS if "SELECT" in block]
    assert len(selects) == 3
    daily, modern, old = selects
    assert [row[1:] for row in filled.query(daily)] == [("view", 2, 1)]
    of_this_server = old if filled.version() < (20, 10) else modern
    assert filled.query(of_this_server) == [("pro", 1)]


def test_a_roll_up_is_refilled_as_documented(filled: ClickHouse) -> None:
    filled.command("DROP TABLE events_daily_states")
    [again] = [block for block in BLOCKS if "formrelay_migrations DELETE" in block]
    filled.command(again)
    _until_planned(filled)
    assert migrate.apply(filled) == ["0003_events_daily"]
    assert filled.query("SELECT events FROM events_daily") == [(2,)]


def test_a_month_is_dropped_as_documented(filled: ClickHouse) -> None:
    [drop] = [block for block in BLOCKS if "DROP PARTITION" in block]
    filled.command(drop.replace("202001", "202601"))
    assert filled.query("SELECT count() FROM events") == [(0,)]
    assert filled.query("SELECT sum(events) FROM events_daily") == [(2,)]


def _until_planned(client: ClickHouse) -> None:
    # The server deletes in the background, and 18.16 cannot wait for it.
    wait_until(lambda: migrate.plan(client))
