"""The results of jobs in Redis, shared by all processes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ..millis import duration_millis
from . import DEFAULT_NAMESPACE
from .connection import translated

#: Stands between the namespace and the id of a job.
PREFIX = ":__results__."


class RedisResultStore:
    """Stores one value for each job id.

    Args:
        client: a :class:`.client.RedisClient`; its maker closes it.
        where: the server's address, for error messages.
        namespace: prefix of the keys.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: the store failed.
    """

    def __init__(self, client: Any, where: str, namespace: str = DEFAULT_NAMESPACE) -> None:
        self._client = client
        self._where = where
        self._prefix = namespace + PREFIX

    def get(self, id: str) -> bytes | None:
        """Return the value of a job; None if there is none."""
        with translated(self._where):
            found: bytes | None = self._client.get(self._key(id))
            return found

    def put(self, id: str, value: bytes, keep: timedelta) -> None:
        """Replace the value of a job, and keep it for ``keep``."""
        with translated(self._where):
            self._client.set(self._key(id), value, px=duration_millis(keep))

    def _key(self, id: str) -> str:
        return self._prefix + id
