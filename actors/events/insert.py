"""Rows of many jobs as one block of ClickHouse's, and which job a refused one belongs to."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from ...core.errors import SinkPermanent
from ...sinks.clickhouse import ClickHouse, TableUnready

#: The values of a table's columns, in their order.
Row = tuple[Any, ...]

#: ClickHouse refuses a block with rows of more than 100 partitions, which here are months.
_MOST_MONTHS = 100
#: Where so many jobs are refused together, it is looked whether the table takes any at all.
_MANY = 10


@dataclass(frozen=True, slots=True)
class Table:
    """A table, as its rows are written.

    Attributes:
        columns: those of its sorting key stand first.
        time: the place of the time by which the table is partitioned.
    """

    name: str
    columns: tuple[str, ...]
    time: int


def token(table: Table, rows: Sequence[Row]) -> str:
    """A deduplication token of the content: the same rows in the same order have the same one."""
    return hashlib.sha256(table.name.encode() + orjson.dumps(rows)).hexdigest()


def insert(
    client: ClickHouse, table: Table, jobs: Sequence[Sequence[Row]]
) -> dict[int, SinkPermanent]:
    """Insert the rows of all jobs as one block, sorted by the table's key.

    A server that refuses a row refuses its whole block, so a refused one is halved until the
    row stands alone; all others are inserted.

    Returns:
        The errors of the jobs that have a refused row, by index.

    Raises:
        SinkTransient: the server is away, cannot now, or takes none of many. Some of the rows
            may be inserted.
    """
    try:
        _insert(client, table, jobs)
    except SinkPermanent as error:
        if len(jobs) >= _MANY:
            _check_that_some_are_taken(client, table, jobs)
        return _find(client, table, jobs, error)
    return {}


def _insert(client: ClickHouse, table: Table, jobs: Sequence[Sequence[Row]]) -> None:
    rows = [row for job in jobs for row in job]
    rows.sort()
    for block in _by_partitions(table, rows):
        columns = list(zip(*block, strict=True))
        client.insert(table.name, table.columns, columns, token=token(table, block))


def _find(
    client: ClickHouse, table: Table, jobs: Sequence[Sequence[Row]], error: SinkPermanent
) -> dict[int, SinkPermanent]:
    """Insert what can be of jobs that were refused together, and say of which the rest are."""
    if len(jobs) == 1:
        return _of_one(client, table, jobs[0], error)
    refused: dict[int, SinkPermanent] = {}
    middle = len(jobs) // 2
    for start, half in ((0, jobs[:middle]), (middle, jobs[middle:])):
        try:
            _insert(client, table, half)
        except SinkPermanent as why:
            found = _find(client, table, half, why)
            refused |= {start + index: one for index, one in found.items()}
    return refused


def _check_that_some_are_taken(
    client: ClickHouse, table: Table, jobs: Sequence[Sequence[Row]]
) -> None:
    """Tell a table that takes nothing from a few bad rows, before all are tried one by one.

    Raises:
        TableUnready: of some taken here and there from the jobs, each is refused.
    """
    # Others at each attempt: a few that are taken are found in the end among many that are not.
    some = [[job[0]] for job in random.sample(list(jobs), _MANY) if job]
    for sample in some:
        try:
            _insert(client, table, [sample])
            return
        except SinkPermanent as error:
            last = error
    raise TableUnready(
        f"expected ClickHouse's table {table.name!r} to take our rows, it refused each of "
        f"{len(some)} that were tried alone: is its schema as formrelay migrate made it? ({last})",
        code=last.code,
    )


def _of_one(
    client: ClickHouse, table: Table, rows: Sequence[Row], error: SinkPermanent
) -> dict[int, SinkPermanent]:
    """Of a refused job of many rows, insert those that the server takes, and say which it is."""
    if len(rows) == 1:
        return {0: error}
    refused = _find(client, table, [[row] for row in rows], error)
    if not refused:
        return {}
    index, why = next(iter(refused.items()))
    more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
    return {0: SinkPermanent(f"item {index + 1} of {len(rows)}{more}: {why}", code=why.code)}


def _by_partitions(table: Table, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """All rows as one block, or as more where they are of too many months for one."""
    if not rows:
        return
    place = table.time
    times = [row[place] for row in rows]
    if _month(max(times)) - _month(min(times)) < _MOST_MONTHS:
        yield rows
        return
    by_month: dict[int, list[Row]] = {}
    for row in rows:
        by_month.setdefault(_month(row[place]), []).append(row)
    months = sorted(by_month)
    for start in range(0, len(months), _MOST_MONTHS):
        yield sorted(
            row for month in months[start : start + _MOST_MONTHS] for row in by_month[month]
        )


def _month(at: datetime) -> int:
    return at.year * 12 + at.month
