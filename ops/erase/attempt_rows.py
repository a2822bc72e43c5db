"""Erases the rows about a person in the delivery log, a table in ClickHouse."""

from __future__ import annotations

import re

from ...actors.resources import clickhouse, clickhouse_schema
from ...actors.webhooks.delivery_log import TABLE
from ...sinks.clickhouse.client import MODERN, identifier
from ...sinks.clickhouse.schema import on_cluster
from .subject import Subject

_PLAIN = re.compile(r"[\w.:@+-]+", re.ASCII)


def erase_attempts(subject: Subject, *, dry_run: bool) -> int:
    """Delete the rows about a person; return their number.

    Without the table there are none: it is made by ``formrelay migrate``.

    Raises:
        SinkError: ClickHouse is unavailable.
    """
    client = clickhouse()
    tables = client.query(
        "SELECT name FROM system.tables WHERE database = %(database)s AND name = %(name)s",
        {"database": client.database, "name": TABLE},
    )
    if not tables:
        return 0
    where = condition(subject)
    table = f"{identifier(client.database)}.{TABLE}"
    (count,) = client.query(f"SELECT count() FROM {table} WHERE {where}")[0]  # noqa: S608 - quoted
    if count and not dry_run:
        # Waits for the deletion, so that a second run finds none. Old servers cannot wait.
        waits = " SETTINGS mutations_sync = 1" if client.version() >= MODERN else ""
        cluster = on_cluster(clickhouse_schema())
        client.command(f"ALTER TABLE {table}{cluster} DELETE WHERE {where}{waits}")
    return int(count)


def condition(subject: Subject) -> str:
    """The condition for rows about a person.

    A value that may need escapes is written as hexadecimal digits.
    """
    value = f"'{subject.value}'"
    if not _PLAIN.fullmatch(subject.value):
        value = f"unhex('{subject.value.encode('utf-8', 'surrogateescape').hex()}')"
    if subject.kind == "email":
        # A response may quote the address, with WEBHOOK_KEEP_RESPONSE_TEXT.
        return f"positionCaseInsensitiveUTF8(concat(message, ' ', response), {value}) > 0"
    return f"{subject.kind}_id = {value}"
