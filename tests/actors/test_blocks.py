"""Blocks of rows: sorted, split by months, and bisected to find the rows that are refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formrelay.actors.events import insert
from formrelay.core.errors import SinkPermanent, SinkUnready
from tests.actors.conftest import Site

same_site = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
COLUMNS = ("form_id", "at", "id")


class RefusingClickHouse:
    """A fake that refuses blocks with an invalid row; test_events.py uses a real server.

    Attributes:
        taken: blocks that were inserted, each as rows.
    """

    def __init__(self, bad: set[UUID]) -> None:
        self.bad = bad
        self.taken: list[list[tuple[Any, ...]]] = []
        self.asked = 0

    def insert(
        self, table: str, columns: Sequence[str], data: Sequence[Sequence[Any]], *, token: str
    ) -> None:
        assert (table, tuple(columns)) == ("t", COLUMNS)
        assert token
        self.asked += 1
        rows = list(zip(*data, strict=True))
        if any(row[2] in self.bad for row in rows):
            raise SinkPermanent("refused", code=53)
        self.taken.append(rows)

    @property
    def ids(self) -> set[int]:
        return {row[2].int for block in self.taken for row in block}


def row(id: int, form: str = "f", days: int = 0) -> tuple[Any, ...]:
    return (form, BEGIN + timedelta(days=days), UUID(int=id))


@pytest.fixture
def table(site: Site) -> Any:
    return insert.Table("t", COLUMNS, time=1)


#: Rows as (form, days, id): forms and days repeat, ids do not.
ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 10_000)),
    min_size=1,
    max_size=40,
    unique_by=lambda one: one[2],
)


@same_site
@given(ROWS)
def test_a_block_is_sorted_by_the_key_of_its_table(site: Site, table: Any, found: Any) -> None:
    client = RefusingClickHouse(set())
    jobs = [[row(id, form, days)] for form, days, id in found]
    assert insert.insert(client, table, jobs) == {}
    (block,) = client.taken
    assert block == sorted(one for job in jobs for one in job)


@same_site
@given(st.lists(st.integers(1, 4), min_size=1, max_size=30), st.data())
def test_exactly_the_refused_rows_are_reported_and_all_others_inserted(
    site: Site, table: Any, sizes: list[int], data: st.DataObject
) -> None:
    jobs: list[list[Any]] = []
    for size in sizes:
        start = sum(map(len, jobs))
        jobs.append([row(start + n) for n in range(size)])
    count = sum(sizes)
    bad = data.draw(st.sets(st.integers(0, count - 1), max_size=5))
    client = RefusingClickHouse({UUID(int=id) for id in bad})
    failures = insert.insert(client, table, jobs)
    wanted = {n for n, job in enumerate(jobs) if any(one[2].int in bad for one in job)}
    assert set(failures) == wanted
    assert client.ids == set(range(count)) - bad


def test_one_bad_row_among_ten_thousand_takes_few_inserts(site: Site, table: Any) -> None:
    client = RefusingClickHouse({UUID(int=7_777)})
    failures = insert.insert(client, table, [[row(n)] for n in range(10_000)])
    assert set(failures) == {7_777}
    assert client.asked < 35  # twice the logarithm, the whole block, and a single row


def test_a_table_that_refuses_everything_is_detected_after_ten_inserts(
    site: Site, table: Any
) -> None:
    jobs = [[row(n)] for n in range(10_000)]
    client = RefusingClickHouse({job[0][2] for job in jobs})
    with pytest.raises(SinkUnready, match="formrelay migrate"):
        insert.insert(client, table, jobs)
    assert client.asked <= 11


def test_a_few_valid_rows_among_many_refused_are_inserted_in_the_end(
    site: Site, table: Any
) -> None:
    jobs = [[row(n)] for n in range(30)]
    client = RefusingClickHouse({job[0][2] for job in jobs} - {UUID(int=1), UUID(int=3)})
    for _ in range(60):  # attempts; each finds one of the two valid rows with p = 0.56
        try:
            failures = insert.insert(client, table, jobs)
        except SinkUnready:
            continue
        break
    assert set(failures) == set(range(30)) - {1, 3}
    assert client.ids == {1, 3}


def test_rows_of_many_months_are_blocks_of_a_hundred_months_at_most(site: Site, table: Any) -> None:
    client = RefusingClickHouse(set())
    jobs = [[row(n, days=n * 31)] for n in range(450)]
    assert insert.insert(client, table, jobs) == {}
    assert client.ids == set(range(450))
    months = [{(one[1].year, one[1].month) for one in block} for block in client.taken]
    assert max(map(len, months)) <= 100
    assert len(client.taken) == 5
