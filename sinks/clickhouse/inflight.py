"""Inserts that are under way while a view is made.

An insert feeds the views that were there when it began, and its rows are there to be read when it
ends. One under way while a view is made is missing in both, the view and a look at the rows.
"""

from __future__ import annotations

import time
from datetime import timedelta

from ...core.errors import SinkTransient
from .client import ClickHouse, identifier
from .schema import Schema

_POLL_SECONDS = 0.05
_PATIENCE = timedelta(minutes=2)
#: A server before 20.1 cannot ask the other hosts what they do. An insert of ours takes less.
_GRACE = timedelta(seconds=2)
_ALL_REPLICAS_SINCE = (20, 1)


def wait(client: ClickHouse, schema: Schema, table: str) -> None:
    """Wait until every insert into ``table`` that has begun by now has ended.

    On a cluster, until its rows have come to this host too.

    Raises:
        SinkTransient: one goes on for minutes.
    """
    asks_all = client.version() >= _ALL_REPLICAS_SINCE
    if schema.cluster and not asks_all:
        time.sleep(_GRACE.total_seconds())
    processes = "system.processes"
    if schema.cluster and asks_all:
        processes = f"clusterAllReplicas({identifier(schema.cluster)}, system.processes)"
    deadline = time.monotonic() + _PATIENCE.total_seconds()
    begun = _inserts(client, processes, table)
    while begun:
        if time.monotonic() > deadline:
            raise SinkTransient(
                f"expected the inserts into {table} that are under way to end, "
                f"{len(begun)} did not: look at system.processes, run formrelay migrate again then"
            )
        time.sleep(_POLL_SECONDS)
        begun &= _inserts(client, processes, table)
    if schema.cluster:
        client.command(f"SYSTEM SYNC REPLICA {identifier(client.database)}.{identifier(table)}")


def _inserts(client: ClickHouse, processes: str, table: str) -> set[str]:
    rows = client.query(
        f"SELECT query_id FROM {processes} WHERE positionCaseInsensitive(query, 'insert') > 0 "  # noqa: S608 - a name of ours
        "AND position(query, %(table)s) > 0 AND position(query, 'system.processes') = 0",
        {"table": table},
    )
    return {str(query_id) for (query_id,) in rows}
