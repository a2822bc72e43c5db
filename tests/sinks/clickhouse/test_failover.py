"""Failover between two real servers: one is down, hangs or is read-only."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from formrelay.core.errors import SinkPermanent, SinkTransient, SinkUnavailable
from formrelay.sinks.clickhouse import ClickHouse, TableSchema, migrate
from formrelay.sinks.clickhouse.client import FailoverClickHouse
from tests.conftest import own
from tests.sinks.clickhouse.conftest import COLUMNS, count, open_clickhouse, rows
from tests.sinks.wire import serving, silence
from tests.support.request_counts import counting
from tests.support.servers import ClickHouseServer
from tests.support.threads import at_once

SHORT = timedelta(milliseconds=500)
Pair = tuple[ClickHouseServer, ClickHouseServer]


@pytest.fixture(scope="module")
def servers() -> Iterator[Pair]:
    """Two independent servers."""
    with own(ClickHouseServer) as first, own(ClickHouseServer) as second:
        yield first, second


@pytest.fixture
def pair(servers: Pair) -> Iterator[Pair]:
    """Both servers, started again after the test."""
    yield servers
    for server in servers:
        if server.running:
            server.resume()
        else:
            server.start()


def both(pair: Pair) -> str:
    return f"clickhouse://127.0.0.1:{pair[0].port},127.0.0.1:{pair[1].port}"


@pytest.fixture
def client(pair: Pair, unique: str) -> Iterator[ClickHouse]:
    """A client of both servers, which have formrelay's tables."""
    alone = [open_clickhouse(server.url, unique) for server in pair]
    for one in alone:
        migrate.apply(one)
    client = open_clickhouse(both(pair), unique, timeout=SHORT, connect_timeout=SHORT)
    yield client
    client.close()
    for one in alone:
        one.close()


def rows_on(server: ClickHouseServer, client: ClickHouse) -> int:
    alone = open_clickhouse(server.url, client.database)
    try:
        return count(alone, "events")
    finally:
        alone.close()


def test_the_first_host_is_used_while_it_answers(pair: Pair, client: ClickHouse) -> None:
    client.insert("events", COLUMNS, rows(3))
    client.insert("events", COLUMNS, rows(3, start=3))
    assert (rows_on(pair[0], client), rows_on(pair[1], client)) == (6, 0)


def test_rows_go_to_the_second_host_if_the_first_was_killed(pair: Pair, client: ClickHouse) -> None:
    client.insert("events", COLUMNS, rows(3))
    pair[0].kill()
    with counting("clickhouse") as found:
        client.insert("events", COLUMNS, rows(3, start=3))
    assert found == {"unavailable": 1, "ok": 1}  # each host
    assert client.query("SELECT count() FROM events_once") == [(3,)]
    pair[0].start()
    client.ping()
    # It stays with the second host, and returns to the first only if the second fails.
    client.insert("events", COLUMNS, rows(3, start=6))
    assert rows_on(pair[1], client) == 6
    pair[1].kill()
    client.insert("events", COLUMNS, rows(3, start=9))
    assert rows_on(pair[0], client) == 6


def test_a_hanging_host_costs_one_time_out(
    pair: Pair, client: ClickHouse, caplog: pytest.LogCaptureFixture
) -> None:
    pair[0].pause()
    for number in range(20):
        client.insert("events", COLUMNS, rows(1, start=number))
    tried = [one for one in caplog.messages if f"127.0.0.1:{pair[0].port}" in one]
    assert len(tried) == 1
    pair[0].resume()
    assert (rows_on(pair[0], client), rows_on(pair[1], client)) == (0, 20)


def test_a_host_that_hangs_within_a_call_is_tried_last_from_then_on(
    pair: Pair, client: ClickHouse
) -> None:
    # The rows may have been inserted: the call fails, and the queue retries it with its token.
    with pytest.raises(SinkTransient, match="in time") as caught:
        client.query("SELECT sleep(2) SETTINGS interactive_delay = 10000000")
    assert not isinstance(caught.value, SinkUnavailable)
    client.insert("events", COLUMNS, rows(3))
    assert (rows_on(pair[0], client), rows_on(pair[1], client)) == (0, 3)


def test_every_thread_uses_the_host_that_works(pair: Pair, client: ClickHouse) -> None:
    pair[0].kill()

    def work(number: int) -> None:
        for block in range(5):
            client.insert("events", COLUMNS, rows(2, start=100 * number + 10 * block))

    at_once(work, range(4))
    assert rows_on(pair[1], client) == 40


def test_without_any_host_the_sink_is_unavailable(pair: Pair, client: ClickHouse) -> None:
    for server in pair:
        server.kill()
    with pytest.raises(SinkUnavailable):
        client.insert("events", COLUMNS, rows(1))
    for server in pair:
        server.start()
    client.ping()


def test_unacceptable_rows_are_tried_on_one_host_only(pair: Pair, client: ClickHouse) -> None:
    with pytest.raises(SinkPermanent):
        client.insert("events", ("event_id",), [["no uuid"]])
    client.insert("events", COLUMNS, rows(1))
    assert rows_on(pair[0], client) == 1


@pytest.mark.parametrize("scheme", ["http", "clickhouse"])
def test_a_host_without_a_server_is_skipped_with_every_scheme(
    scheme: str, modern_http_url: str, clickhouse_url: str
) -> None:
    url = modern_http_url if scheme == "http" else clickhouse_url
    client = open_clickhouse(url.replace("://", "://127.0.0.1:1,[::1]:1,"), "default")
    assert client.query("SELECT 1") == [(1,)]
    client.close()


def test_threads_wait_once_for_a_host_that_hangs_over_http(modern_http_url: str) -> None:
    with serving(silence) as wire:
        url = modern_http_url.replace("://", f"://127.0.0.1:{wire.port},")
        client = open_clickhouse(url, "default", timeout=timedelta(seconds=1))
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda n: client.query(f"SELECT {n}"), range(8)))
        assert found == [[(n,)] for n in range(8)]
        assert wire.accepted == 1
        client.close()


class _ReadOnly:
    """A replica that has lost its ZooKeeper."""

    asked = 0

    def __getattr__(self, name: str) -> Any:
        def refuse(*_: object, **__: object) -> None:
            self.asked += 1
            raise SinkTransient("TABLE_IS_READ_ONLY", code=242)

        return refuse


def test_a_read_only_replica_is_skipped(pair: Pair, client: ClickHouse) -> None:
    readonly: Any = _ReadOnly()
    several = FailoverClickHouse([readonly, client])
    several.insert("events", COLUMNS, rows(2))
    several.insert("events", COLUMNS, rows(2, start=2))
    assert (rows_on(pair[0], client), readonly.asked) == (4, 1)


def test_several_hosts_without_a_cluster_are_reported(client: ClickHouse) -> None:
    [note] = migrate.notes(client)
    assert note.startswith("CLICKHOUSE_URL names several hosts and CLICKHOUSE_CLUSTER is not set")
    assert migrate.notes(client, TableSchema(cluster="pair")) == []
