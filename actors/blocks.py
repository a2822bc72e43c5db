"""Rows of many jobs as one block of ClickHouse's, and which job a refused one belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ..core.errors import SinkPermanent
from ..sinks.clickhouse import ClickHouse

#: Its first value is the UUID by which the row is known.
Row = tuple[Any, ...]


def token(rows: Sequence[Row]) -> str:
    """A deduplication token of the content: the same rows in the same order have the same one."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row[0].bytes)
    return digest.hexdigest()


def insert(
    client: ClickHouse, table: str, columns: Sequence[str], blocks: Sequence[Sequence[Row]]
) -> dict[int, BaseException]:
    """Insert the rows of all blocks as one; the errors of the refused blocks by index.

    A server that refuses a row refuses its whole insert, so a refused one is
    halved until the row's own block stands alone.

    Raises:
        SinkTransient: the server is away, or cannot now.
    """
    rows = [row for block in blocks for row in block]
    try:
        client.insert(table, columns, list(zip(*rows, strict=True)), token=token(rows))
    except SinkPermanent as error:
        if len(blocks) == 1:
            return {0: error}
        middle = len(blocks) // 2
        first = insert(client, table, columns, blocks[:middle])
        second = insert(client, table, columns, blocks[middle:])
        return first | {middle + index: failed for index, failed in second.items()}
    return {}
