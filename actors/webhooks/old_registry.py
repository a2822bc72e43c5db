"""The endpoint records of older versions in Redis, which lay outside of every namespace."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Any

import redis

#: As in ``redis_registry.py``, without a namespace.
OLD_RECORDS = "formrelay:endpoints"
OLD_DISABLED = "formrelay:endpoints:disabled"
OLD_DELIVERED = "formrelay:delivered:"

#: Seconds between two looks: in a rolling upgrade older workers go on writing there.
_INTERVAL = 60.0
#: Seconds for which older workers still see the disabled endpoints.
_DISABLED_LASTS = 3_600
_CHUNK = 500


class OldRegistry:
    """See the module.

    Args:
        client: of redis-py. Its user may have no right to the old keys; then there are none.
    """

    key = OLD_RECORDS

    def __init__(self, client: Any) -> None:
        self._client = client
        self._next_look = 0.0

    def is_due(self) -> bool:
        """Whether there may be something to adopt that was not looked for lately."""
        now = monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + _INTERVAL
        try:
            return bool(self._client.exists(OLD_RECORDS))
        except redis.exceptions.NoPermissionError:
            self._next_look = float("inf")
            return False

    def ids(self) -> Iterator[list[bytes]]:
        """The endpoints that have a record, some at a time."""
        every = list(self._client.hkeys(OLD_RECORDS))
        for first in range(0, len(every), _CHUNK):
            yield every[first : first + _CHUNK]

    def get(self, client: Any, ids: list[bytes]) -> list[bytes | None]:
        """The records of some endpoints."""
        return list(client.hmget(OLD_RECORDS, ids))

    def delete(self, pipeline: Any, ids: list[bytes]) -> None:
        """Remove records that were adopted."""
        pipeline.hdel(OLD_RECORDS, *ids)
        pipeline.expire(OLD_DISABLED, _DISABLED_LASTS)

    def delivered(self, id: str) -> bytes | None:
        """The job of a delivered webhook that an older version kept."""
        try:
            found: bytes | None = self._client.get(OLD_DELIVERED + id)
        except redis.exceptions.NoPermissionError:
            return None
        return found
