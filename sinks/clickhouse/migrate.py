"""Bring a ClickHouse's schema up to date: ordered files, each applied once.

ClickHouse has no transactions for DDL and no lock to take, so every statement
is ``IF NOT EXISTS`` and two runs at once do the same work twice, harmlessly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

from ...core.errors import SinkError
from .client import ClickHouse, identifier
from .errors import NO_DATABASE, NO_TABLE

# What a server answers to one of two runs that create the same thing at once:
# table, metadata or database exists already; another thread is creating it.
_RACE_LOST = {57, 58, 82, 337}
_RACE_TRIES = 20
_RACE_WAIT_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of ``migrations/``: its name without the ending, and its text."""

    name: str
    text: str


def plan(client: ClickHouse) -> list[Migration]:
    """The migrations that this server still lacks, in order; changes nothing.

    Raises:
        SinkError: the server cannot be asked.
    """
    try:
        done = {row[0] for row in client.query("SELECT name FROM formrelay_migrations")}
    except SinkError as error:
        if error.code not in (NO_DATABASE, NO_TABLE):
            raise
        done = set()
    return [one for one in _files() if one.name not in done]


def apply(client: ClickHouse) -> list[str]:
    """Apply what is missing, the database first; the names of what was applied.

    Raises:
        SinkError: a statement failed; what went before it stays, and another
            run goes on from there.
    """
    _patiently(client.create_database)
    missing = plan(client)
    if not missing:
        return []
    _patiently(lambda: client.command(_record_table(client)))
    values = placeholders(client)
    for migration in missing:
        for statement in _statements(migration.text, values):
            _patiently(lambda sql=statement: client.command(sql))  # type: ignore[misc]
        client.insert("formrelay_migrations", ["name"], [[migration.name]])
    return [migration.name for migration in missing]


def placeholders(client: ClickHouse) -> dict[str, str]:
    """What stands for ``{name}`` in a migration on this server.

    18.16 (Debian's) knows none of DateTime64, LowCardinality outside an
    experiment, and deduplication for a table that is not replicated.
    """
    version = client.version()
    modern_times = version >= (20, 1)
    window = client.query(
        "SELECT count() FROM system.merge_tree_settings "
        "WHERE name = 'non_replicated_deduplication_window'"
    )
    return {
        "database": identifier(client.database),
        "datetime64": "DateTime64(3, 'UTC')" if modern_times else "DateTime('UTC')",
        "now": "now64(3, 'UTC')" if modern_times else "now()",
        "low_cardinality": "LowCardinality(String)" if version >= (19, 1) else "String",
        "dedup_window": (
            "SETTINGS non_replicated_deduplication_window = 1000" if window[0][0] else ""
        ),
    }


def _files() -> list[Migration]:
    folder = resources.files(__package__ or "") / "migrations"
    files = (file for file in folder.iterdir() if file.name.endswith(".sql"))
    read = (Migration(file.name.removesuffix(".sql"), file.read_text("utf-8")) for file in files)
    return sorted(read, key=lambda migration: migration.name)


def _statements(text: str, values: dict[str, str]) -> tuple[str, ...]:
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("--"))
    filled = "\n".join(lines).format_map(values)
    return tuple(part.strip() for part in filled.split(";\n") if part.strip(" \n;"))


def _record_table(client: ClickHouse) -> str:
    return (
        f"CREATE TABLE IF NOT EXISTS {identifier(client.database)}.formrelay_migrations "
        "(name String, applied_at DateTime DEFAULT now()) "
        "ENGINE = ReplacingMergeTree ORDER BY name"
    )


def _patiently(step: Callable[[], None]) -> None:
    """Run a step that another run may be doing at this moment."""
    for tries_left in reversed(range(_RACE_TRIES)):
        try:
            step()
            return
        except SinkError as error:
            if error.code not in _RACE_LOST or not tries_left:
                raise
            time.sleep(_RACE_WAIT_SECONDS)
