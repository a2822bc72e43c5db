"""Workers of events are killed: each event is counted once, even if it was sent several times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from formrelay.sinks.clickhouse import ClickHouse, migrate
from tests.faults.workers import Workers, kill
from tests.sinks.clickhouse.conftest import open_clickhouse
from tests.support.brokers import BROKERS
from tests.support.waiting import wait_until

COUNT = 10_000

DISTINCT = "SELECT uniqExact(event_id) FROM events"
#: Inserted rows, independent of later merges.
ROWS = (
    "SELECT sum(rows) FROM system.parts WHERE database = currentDatabase() AND table = 'events'"
    " AND level = 0"
)


@pytest.fixture
def client(clickhouse_url: str, clickhouse_database: str) -> Iterator[ClickHouse]:
    client = open_clickhouse(clickhouse_url, clickhouse_database)
    migrate.apply(client)
    yield client
    client.close()


@pytest.fixture(params=BROKERS)
def workers(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    clickhouse_url: str,
    clickhouse_database: str,
) -> Workers:
    return Workers(
        tmp_path,
        request.getfixturevalue(request.param),
        "EVENT_QUEUE",
        CLICKHOUSE_URL=clickhouse_url,
        CLICKHOUSE_DATABASE=clickhouse_database,
        WORKER_CONCURRENCY="2",
        EVENT_BATCH_SIZE="200",
        EVENT_BATCH_WAIT_MS="100",
    )


def number(client: ClickHouse, sql: str) -> int:
    return int(client.query(sql)[0][0])


@pytest.mark.slow
def test_events_sent_thrice_to_workers_that_are_killed_count_once(
    workers: Workers, client: ClickHouse
) -> None:
    workers.send("events", str(COUNT))
    with ExitStack() as stack:
        stack.enter_context(workers.one())
        for rows in (2_000, 9_000, 16_000):  # of the 30,000 that are sent
            worker = stack.enter_context(workers.one())
            wait_until(lambda rows=rows: number(client, ROWS) >= rows)  # type: ignore[misc]
            kill(worker)
            assert number(client, ROWS) < 3 * COUNT, "the worker was killed too late"
        wait_until(lambda: number(client, DISTINCT) == COUNT)
        assert number(client, "SELECT count() FROM events_once") == COUNT
        # Later events do not change it.
        wait_until(lambda: number(client, ROWS) >= 3 * COUNT)
    assert number(client, "SELECT count() FROM events_once") == COUNT
    assert number(client, "SELECT sum(events) FROM events_daily") == COUNT
    found = client.query("SELECT type, count() FROM events_once GROUP BY type ORDER BY type")
    assert found == [(f"type-{n}", COUNT // 5) for n in range(5)]
