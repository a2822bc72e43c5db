"""Several hosts behind one address: one is spoken to, the others are for when it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ...core.errors import SinkTransient, SinkUnavailable
from .client import ClickHouse

T = TypeVar("T")

#: A replica that lost its ZooKeeper takes no rows (TABLE_IS_READ_ONLY); the others may.
_READ_ONLY = 242


class FailoverClickHouse:
    """Calls go to the host that worked last; to the next one where it took nothing.

    Nothing is sent twice: a call that broke off after something was sent raises, and the queue
    tries it again under its token. The host that left it without an answer is not asked first
    again, so that one that hangs costs its time-out once and not on every call.

    Args:
        clients: one a host, in the order in which they are tried.
    """

    def __init__(self, clients: Sequence[ClickHouse]) -> None:
        self._clients = tuple(clients)
        # Shared between threads without a lock: each only ever moves away from a host that failed.
        self._first = 0

    @property
    def database(self) -> str:
        return self._clients[0].database

    @property
    def supports_dedup_token(self) -> bool:
        return self._call(lambda client: client.supports_dedup_token)

    def insert(
        self,
        table: str,
        columns: Sequence[str],
        data: Sequence[Sequence[Any]],
        *,
        token: str | None = None,
    ) -> None:
        self._call(lambda client: client.insert(table, columns, data, token=token))

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        return self._call(lambda client: client.query(sql, params))

    def command(self, sql: str) -> None:
        self._call(lambda client: client.command(sql))

    def create_database(self, cluster: str | None = None) -> None:
        self._call(lambda client: client.create_database(cluster))

    def version(self) -> tuple[int, ...]:
        return self._call(lambda client: client.version())

    def ping(self) -> None:
        self._call(lambda client: client.ping())

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def _call(self, work: Callable[[ClickHouse], T]) -> T:
        first, count = self._first, len(self._clients)
        for number in ((first + step) % count for step in range(count)):
            try:
                result = work(self._clients[number])
            except SinkTransient as error:
                last = error
                if isinstance(error, SinkUnavailable) or error.code == _READ_ONLY:
                    continue
                if error.code is None:  # a time-out, a lost connection
                    self._first = (number + 1) % count
                raise
            if number != first:
                self._first = number
            return result
        raise last
