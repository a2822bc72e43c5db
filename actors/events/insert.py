"""Inserts the rows of many jobs as one block, and finds the job of a refused row."""

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

#: The values of one row, in the order of its table's columns.
Row = tuple[Any, ...]

#: ClickHouse refuses a block whose rows are in more than 100 partitions; our partitions are months.
_MAX_MONTHS = 100
#: With this many jobs in a refused block, a sample checks first whether the table accepts any row.
_SAMPLE = 10


@dataclass(frozen=True, slots=True)
class Table:
    """A table that rows are inserted into.

    Attributes:
        columns: names of the columns, beginning with the sorting key.
        time: index of the column by whose month the table is partitioned.
    """

    name: str
    columns: tuple[str, ...]
    time: int


def token(table: Table, rows: Sequence[Row]) -> str:
    """The deduplication token of a block: a hash of its rows in their order."""
    return hashlib.sha256(table.name.encode() + orjson.dumps(rows)).hexdigest()


def insert(
    client: ClickHouse, table: Table, jobs: Sequence[Sequence[Row]]
) -> dict[int, SinkPermanent]:
    """Insert the rows of all jobs as one block, sorted by the table's key.

    A server that refuses a row refuses the whole block. A refused block is halved until the bad
    row is alone; all other rows are inserted.

    Returns:
        The errors of the jobs that have a refused row, by index.

    Raises:
        SinkTransient: the server is unavailable or busy, or refuses every row of a sample. Some
            rows may be inserted.
    """
    try:
        _insert(client, table, jobs)
    except SinkPermanent as error:
        if len(jobs) >= _SAMPLE:
            _check_table_accepts_rows(client, table, jobs)
        return _insert_halves(client, table, jobs, error)
    return {}


def _insert(client: ClickHouse, table: Table, jobs: Sequence[Sequence[Row]]) -> None:
    rows = [row for job in jobs for row in job]
    rows.sort()
    for block in _by_partitions(table, rows):
        columns = list(zip(*block, strict=True))
        client.insert(table.name, table.columns, columns, token=token(table, block))


def _insert_halves(
    client: ClickHouse, table: Table, jobs: Sequence[Sequence[Row]], error: SinkPermanent
) -> dict[int, SinkPermanent]:
    """Insert the good rows of jobs that were refused together; returns the errors by index."""
    if len(jobs) == 1:
        return _insert_rows(client, table, jobs[0], error)
    refused: dict[int, SinkPermanent] = {}
    middle = len(jobs) // 2
    for start, half in ((0, jobs[:middle]), (middle, jobs[middle:])):
        try:
            _insert(client, table, half)
        except SinkPermanent as why:
            found = _insert_halves(client, table, half, why)
            refused |= {start + index: job_error for index, job_error in found.items()}
    return refused


def _check_table_accepts_rows(
    client: ClickHouse, table: Table, jobs: Sequence[Sequence[Row]]
) -> None:
    """Tell a table that refuses everything from a few bad rows, before all rows are tried alone.

    Raises:
        TableUnready: the table refused every row of a random sample.
    """
    # Random: another attempt tries other rows, so a few good rows among many bad are found.
    some = [[job[0]] for job in random.sample(list(jobs), _SAMPLE) if job]
    for sample in some:
        try:
            _insert(client, table, [sample])
            return
        except SinkPermanent as error:
            last = error
    raise TableUnready(
        f"expected ClickHouse's table {table.name!r} to accept rows, it refused each of "
        f"{len(some)} rows tried alone: check that its schema is formrelay migrate's ({last})",
        code=last.code,
    )


def _insert_rows(
    client: ClickHouse, table: Table, rows: Sequence[Row], error: SinkPermanent
) -> dict[int, SinkPermanent]:
    """Insert the good rows of one refused job; the error names the first bad row."""
    if len(rows) == 1:
        return {0: error}
    refused = _insert_halves(client, table, [[row] for row in rows], error)
    if not refused:
        return {}
    index, why = next(iter(refused.items()))
    more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
    return {0: SinkPermanent(f"item {index + 1} of {len(rows)}{more}: {why}", code=why.code)}


def _by_partitions(table: Table, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """All rows as one block, or as several where they span too many months."""
    if not rows:
        return
    times = [row[table.time] for row in rows]
    if _month(max(times)) - _month(min(times)) < _MAX_MONTHS:
        yield rows
        return
    by_month: dict[int, list[Row]] = {}
    for row in rows:
        by_month.setdefault(_month(row[table.time]), []).append(row)
    months = sorted(by_month)
    for start in range(0, len(months), _MAX_MONTHS):
        yield sorted(
            row for month in months[start : start + _MAX_MONTHS] for row in by_month[month]
        )


def _month(at: datetime) -> int:
    return at.year * 12 + at.month
