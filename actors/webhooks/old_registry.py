"""Reads the endpoint registry of older versions, whose Redis keys have no namespace."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Any

import redis

#: The keys of ``redis_registry.py`` in older versions.
OLD_RECORDS = "formrelay:endpoints"
OLD_DISABLED = "formrelay:endpoints:disabled"
OLD_DELIVERED = "formrelay:delivered:"

#: Seconds between two checks: during a rolling upgrade, older workers still write these keys.
_INTERVAL = 60.0
#: Seconds for which older workers still see the disabled endpoints.
_DISABLED_TTL = 3_600
_MAX_IDS = 500


class OldRegistry:
    """The endpoint records and delivered jobs that older versions stored.

    Args:
        client: client of redis-py. If it may not read the old keys, there are no records to adopt.
    """

    key = OLD_RECORDS

    def __init__(self, client: Any) -> None:
        self._client = client
        self._next_check = 0.0

    def is_due(self) -> bool:
        """Whether there are records to adopt; asks Redis once in 60 s, otherwise returns False."""
        now = monotonic()
        if now < self._next_check:
            return False
        self._next_check = now + _INTERVAL
        try:
            return bool(self._client.exists(OLD_RECORDS))
        except redis.exceptions.NoPermissionError:
            self._next_check = float("inf")
            return False

    def ids(self) -> Iterator[list[bytes]]:
        """Ids of the endpoints that have a record, in lists of at most 500."""
        ids = list(self._client.hkeys(OLD_RECORDS))
        for start in range(0, len(ids), _MAX_IDS):
            yield ids[start : start + _MAX_IDS]

    def get(self, client: Any, ids: list[bytes]) -> list[bytes | None]:
        """The records of ``ids`` as JSON; None for an endpoint without a record."""
        return list(client.hmget(OLD_RECORDS, ids))

    def delete(self, pipeline: Any, ids: list[bytes]) -> None:
        """Delete the adopted records; let the old set of disabled endpoints expire."""
        pipeline.hdel(OLD_RECORDS, *ids)
        pipeline.expire(OLD_DISABLED, _DISABLED_TTL)

    def delivered(self, id: str) -> bytes | None:
        """The delivered job that an older version kept; None if there is none."""
        try:
            found: bytes | None = self._client.get(OLD_DELIVERED + id)
        except redis.exceptions.NoPermissionError:
            return None
        return found
