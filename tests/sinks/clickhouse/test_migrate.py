"""Migrations that run at the same time, on a fake server."""

from __future__ import annotations

import re
from collections import Counter
from importlib import resources
from typing import Any

import pytest

from formrelay.core.errors import SinkTransient
from formrelay.sinks.clickhouse import migrate


class Racing:
    """A fake server on which each statement loses a race ``times`` before it succeeds."""

    database = "db"

    def __init__(self, code: int, times: int) -> None:
        self.code, self.times = code, times
        self.ran: Counter[str] = Counter()
        self.inserted: list[Any] = []

    def command(self, sql: str) -> None:
        self.ran[sql] += 1
        if self.ran[sql] <= self.times:
            raise SinkTransient("lost", code=self.code)

    def create_database(self, cluster: str | None = None) -> None:
        self.command("CREATE DATABASE")

    def query(self, sql: str, params: object = None) -> list[tuple[Any, ...]]:
        if "formrelay_migrations" in sql:
            raise SinkTransient("missing", code=60)
        return [] if "system.processes" in sql else [(0,)]

    def insert(self, table: str, columns: object, data: object, *, token: object = None) -> None:
        self.inserted.append(data)

    def version(self) -> tuple[int, ...]:
        return (18, 16, 1)

    def ping(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("code", [57, 58, 82, 337])
def test_a_statement_that_another_run_executes_is_retried(code: int) -> None:
    client = Racing(code, times=2)
    names = ["0001_events", "0002_webhook_deliveries", "0003_events_daily"]
    assert migrate.apply(client) == names
    assert set(client.ran.values()) == {3}
    assert client.inserted == [[[name]] for name in names]


@pytest.mark.parametrize("code", [60, 241, 497])
def test_any_other_error_ends_the_migration_and_records_nothing(code: int) -> None:
    client = Racing(code, times=1)
    with pytest.raises(SinkTransient):
        migrate.apply(client)
    assert client.inserted == []


def test_retries_of_a_statement_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "_POLL_SECONDS", 0)
    with pytest.raises(SinkTransient, match="lost"):
        migrate.apply(Racing(337, times=10_000))


def test_every_statement_is_idempotent_and_files_are_numbered_without_gaps() -> None:
    folder = resources.files("formrelay.sinks.clickhouse") / "migrations"
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    assert [name[:4] for name in names] == [f"{n:04}" for n in range(1, len(names) + 1)]
    for name in names:
        creates = re.findall(r"^CREATE .*", (folder / name).read_text("utf-8"), re.MULTILINE)
        assert creates
        assert all("IF NOT EXISTS" in line for line in creates)
