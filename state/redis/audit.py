"""The audit log in Redis, shared by all processes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from ..audit import (
    MAX_ENTRIES,
    MAX_PAGE,
    AuditEntry,
    AuditPage,
    Via,
    bad_cursor,
    clean_entry,
)
from ..millis import from_millis
from . import StateRedis
from .base import RedisStore
from .client import repeated

_CURSOR = re.compile(r"(\d{1,15})-(\d{1,20})\Z", re.ASCII)
_LAST_SEQUENCE = 2**64 - 1


class RedisAuditLog(RedisStore):
    """The audit log of all processes, a stream with times of the server's clock.

    Args:
        most: maximum number of entries.
    """

    #: Stands after the namespace: one key.
    prefix = ":__audit__"

    def __init__(self, redis: StateRedis, *, most: int = MAX_ENTRIES) -> None:
        super().__init__(redis)
        self._most = most

    def add(self, entry: AuditEntry) -> None:
        entry = clean_entry(entry)
        names = ("who", "via", "action", "target", "filter", "outcome")
        fields = {name: str(getattr(entry, name)).encode() for name in names}
        fields["count"] = b"" if entry.count is None else str(entry.count).encode()
        with self._connected() as client:
            repeated(
                lambda _: client.xadd(self._prefix, fields, maxlen=self._most, approximate=False)
            )

    def newest(self, limit: int = 100, cursor: str | None = None) -> AuditPage:
        last = "+" if cursor is None else _before(cursor)
        limit = min(limit, MAX_PAGE)
        with self._connected() as client:
            found = client.xrevrange(self._prefix, last, "-", count=limit + 1)
        entries = [_parse(id.decode(), fields) for id, fields in found[:limit]]
        return AuditPage(entries, found[limit - 1][0].decode() if len(found) > limit else None)


def _before(cursor: str) -> str:
    """The largest id below a cursor: Redis before 6.2 has no exclusive ranges."""
    match = _CURSOR.match(cursor)
    if match is None:
        raise bad_cursor()
    millis, sequence = int(match[1]), int(match[2])
    if sequence:
        return f"{millis}-{min(sequence, _LAST_SEQUENCE) - 1}"
    return f"{max(0, millis - 1)}-{_LAST_SEQUENCE if millis else 0}"


def _parse(id: str, fields: Mapping[bytes, bytes]) -> AuditEntry:
    def text(name: str) -> str:
        return fields.get(name.encode(), b"").decode(errors="replace")

    count = text("count")
    return AuditEntry(
        text("who"),
        cast(Via, text("via")),
        text("action"),
        text("target"),
        text("filter"),
        int(count) if count else None,
        text("outcome"),
        from_millis(int(id.partition("-")[0])),
    )
