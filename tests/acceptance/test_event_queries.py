"""The SQL of docs/events.md: each block on an old and a new ClickHouse."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from formrelay.sinks.clickhouse import ClickHouse, migrate
from tests.ops.form_events import FORM, Expected, Happened, insert, make, quantile
from tests.sinks.clickhouse.conftest import open_clickhouse
from tests.support.checkout import ROOT

#: First line of a block that needs a newer ClickHouse.
NEWER = "-- ClickHouse 20 and newer"
TEXT = (ROOT / "docs" / "events.md").read_text()
BLOCKS = [
    (heading, block)
    for heading, section in re.findall(r"^### (.*?)\n(.*?)(?=^##|\Z)", TEXT, re.M | re.S)
    for block in re.findall(r"```sql\n(.*?)```", section, re.S)
]
NOW = datetime.now(UTC)
EVENTS = make(NOW)


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    """A new ClickHouse, embedded; closed after this module, since a process opens one folder."""
    client = _open(f"chdb://{tmp_path_factory.mktemp('chdb')}/data", "queries")
    _fill(client)
    yield client
    client.close()


@pytest.fixture
def older(clickhouse_url: str, clickhouse_database: str) -> Iterator[ClickHouse]:
    client = _open(clickhouse_url, clickhouse_database)
    _fill(client)
    yield client
    client.close()


def _open(url: str, database: str) -> ClickHouse:
    patience = timedelta(seconds=20)
    return open_clickhouse(url, database, timeout=patience, connect_timeout=patience)


def _fill(client: ClickHouse) -> None:
    migrate.apply(client)
    insert(client, EVENTS)


def expected(heading: str) -> list[tuple[Any, ...]]:
    """Expected rows of the queries below a heading."""
    ours = Expected(EVENTS, NOW)
    if heading == "Views, starts, completions and conversion by day":
        return list(ours.days())
    if heading == "Funnel":
        return [tuple(ours.funnel())]
    if heading == "Drop-off by field":
        return list(ours.fields())
    if heading == "Time to complete":
        took = ours.seconds_of_start()
        return [(len(took), quantile(took, 0.5), quantile(took, 0.9))]
    assert heading == "Most active forms", f"expected figures for {heading!r}: count them here too"
    return [_activity("signup"), _activity("other")]


def _activity(form: str) -> tuple[Any, ...]:
    its = [one for one in Expected(EVENTS, NOW, form).sessions.values() if one]

    def having(kind: str) -> int:
        return sum(any(one.type == kind for one in session) for session in its)

    last = max(one.at for session in its for one in session)
    events = sum(map(len, its))
    return form, having("form_viewed"), having("form_submitted"), events, last


@pytest.mark.parametrize(
    ("engine", "heading", "sql"),
    [
        pytest.param(engine, *block, id=f"{engine}-{block[0]}-{number}")
        for engine in ("older", "newer")
        for number, block in enumerate(BLOCKS)
        if engine == "newer" or not block[1].startswith(NEWER)
    ],
)
def test_a_query_returns_the_independent_count(
    engine: str, heading: str, sql: str, request: pytest.FixtureRequest
) -> None:
    client: ClickHouse = request.getfixturevalue(engine)
    rows = [tuple(_aware(value) for value in row) for row in client.query(sql)]
    assert rows == expected(heading)


def _aware(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value


def test_every_query_counts_each_event_once() -> None:
    # Queries of sessions give the same without it, but readers may change them.
    assert [sql for _, sql in BLOCKS if re.search(r"FROM events\b(?!_once)", sql)] == []


def test_every_block_of_sql_is_tested_and_most_on_both_versions() -> None:
    assert len(BLOCKS) == TEXT.count("```sql")
    assert len(BLOCKS) >= 7
    assert sum(sql.startswith(NEWER) for _, sql in BLOCKS) == 2


def test_the_sample_events_reveal_wrong_queries() -> None:
    ours = Expected(EVENTS, NOW)
    viewed, started, completed = ours.funnel()
    assert viewed > started > completed > 20
    assert ours.outside()[2] >= 5
    assert sum(left for _, left, _ in ours.fields()) > 10
    assert "" in {name for name, _, _ in ours.fields()}
    assert _in_one_second(EVENTS) > 10
    assert any(None in day for day in ours.days())
    assert {one.form for one in EVENTS} > {FORM}


def _in_one_second(events: list[Happened]) -> int:
    """Number of sessions that started in the same second as their view."""
    first = {one.who: one.at for one in events if one.type == "form_viewed"}
    return len(
        {one.who for one in events if one.type == "form_started" and one.at == first[one.who]}
    )
