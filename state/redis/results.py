"""The results of jobs in Redis, shared by all processes."""

from __future__ import annotations

from datetime import timedelta

from ..millis import duration_millis
from .base import RedisStore


class RedisResultStore(RedisStore):
    """Stores one value for each job id."""

    #: Stands between the namespace and the id of a job.
    prefix = ":__results__."

    def get(self, id: str) -> bytes | None:
        """Return the value of a job; None if there is none."""
        with self._connected() as client:
            found: bytes | None = client.get(self._key(id))
            return found

    def put(self, id: str, value: bytes, keep: timedelta) -> None:
        """Replace the value of a job, and keep it for ``keep``."""
        with self._connected() as client:
            client.set(self._key(id), value, px=duration_millis(keep))

    def _key(self, id: str) -> str:
        return self._prefix + id
