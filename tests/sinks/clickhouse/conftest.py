"""A ClickHouse over each protocol, always a real engine."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from formrelay.core.errors import SinkTransient
from formrelay.sinks.clickhouse import ClickHouse, connect, migrate

Opener = Callable[..., ClickHouse]

WAYS = [
    pytest.param("native", marks=pytest.mark.clickhouse),
    "http",
    "embedded",
]
COLUMNS = (
    *("event_id", "type", "form_id", "submission_id", "session_id"),
    *("occurred_at", "received_at", "properties"),
)
WHEN = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


def open_clickhouse(url: str, database: str, **changes: Any) -> ClickHouse:
    options: dict[str, Any] = {
        "user": "default",
        "password": lambda: None,
        "timeout": timedelta(seconds=10),
        "connect_timeout": timedelta(seconds=1),
    }
    return connect(url, database=database, **(options | changes))


@contextmanager
def modern_http(folder: Path, *certificate: Path) -> Iterator[int]:
    """Start chdb_http.py with a modern engine; returns its port."""
    program = Path(__file__).with_name("chdb_http.py")
    command = [sys.executable, *map(str, (program, folder, *certificate))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


@pytest.fixture(scope="session")
def modern_http_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a modern engine with the HTTP interface."""
    with modern_http(tmp_path_factory.mktemp("chdb_http") / "data") as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def embedded_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an embedded engine, which stays open during the tests of a module.

    A process can open only one folder, which takes 0.5 s.
    """
    url = f"chdb://{tmp_path_factory.mktemp('chdb')}/a%20folder/data"
    keeper = open_clickhouse(url, "keeper")
    keeper.ping()
    yield url
    keeper.close()


@pytest.fixture(params=WAYS)
def url(request: pytest.FixtureRequest) -> str:
    fixture = {"native": "clickhouse_url", "http": "modern_http_url", "embedded": "embedded_url"}
    url: str = request.getfixturevalue(fixture[request.param])
    return url


@pytest.fixture
def empty(url: str, unique: str) -> Iterator[ClickHouse]:
    """A client of a ClickHouse without formrelay's database."""
    client = open_clickhouse(url, unique)
    yield client
    client.create_database()  # so that the database can be dropped
    client.command(f"DROP DATABASE {unique}")
    client.close()


@pytest.fixture
def clickhouse(empty: ClickHouse) -> ClickHouse:
    """A client of a ClickHouse with formrelay's schema."""
    migrate.apply(empty)
    return empty


def rows(count: int, start: int = 0) -> list[list[Any]]:
    ids = [uuid.UUID(int=number) for number in range(start, start + count)]
    fill = (["view"], ["f1"], ["s1"], ["sé☃"], [WHEN], [WHEN], ['{"a": 1}'])
    return [ids, *(one * count for one in fill)]


def count(client: ClickHouse, table: str) -> int:
    return int(client.query(f"SELECT count() FROM {table}")[0][0])


@contextmanager
def inserting(client: ClickHouse, *, start: int) -> Iterator[Callable[[], int]]:
    """Insert events numbered from ``start`` continuously; yields the number after the last event.

    Retries transient failures, as the queue does.
    """
    ended, errors = threading.Event(), list[BaseException]()
    number = start

    def work() -> None:
        nonlocal number
        try:
            while not ended.is_set():
                # While 18.16 creates a view, it refuses inserts for a moment.
                with suppress(SinkTransient):
                    client.insert("events", COLUMNS, rows(5, start=number))
                    number += 5
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield lambda: number
    finally:
        ended.set()
        thread.join(60)
    assert errors == []
