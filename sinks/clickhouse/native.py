"""``clickhouse://`` and ``clickhouses://``: the native protocol, over clickhouse-driver."""

from __future__ import annotations

import os
import ssl
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

from ...config.drivers import prepare_clickhouse_driver
from .client import (
    MODERN,
    HostClickHouse,
    Target,
    identifier,
    import_driver,
    parse_version,
    token_settings,
)
from .errors import filter_driver_logs, sink_error

T = TypeVar("T")


@dataclass(slots=True, weakref_slot=True, eq=False)
class _Connection:
    """A connection of one thread."""

    client: Any
    pid: int
    version: tuple[int, ...] | None = None

    @property
    def driver(self) -> Any:
        """The driver's connection."""
        return self.client.connection


class NativeClickHouse(HostClickHouse):
    """A client over the native protocol, with one connection for each thread.

    A failed connection is closed, and the next call opens another with the current password. The
    time-out is for one read, so a server that keeps sending progress may take longer.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        prepare_clickhouse_driver()
        self._driver = import_driver("clickhouse_driver", extra="clickhouse")
        import_driver("lz4", extra="clickhouse")  # the driver needs it to compress blocks
        self._local = threading.local()
        self._all: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._lock = threading.Lock()
        filter_driver_logs()

    def _insert(
        self, table: str, columns: Sequence[str], data: Sequence[Sequence[Any]], token: str | None
    ) -> None:
        names = ", ".join(identifier(column) for column in columns)
        sql = f"INSERT INTO {identifier(table)} ({names}) VALUES"

        def work(connection: _Connection) -> None:
            # Old servers refuse unknown settings.
            known = token is not None and self._version(connection) >= MODERN
            settings = token_settings(token) if known else None
            connection.client.execute(sql, list(data), columnar=True, settings=settings)

        self._run(work)

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        return self._run(
            lambda connection: list(
                connection.client.execute(sql, dict(params) if params else None)
            )
        )

    def command(self, sql: str) -> None:
        self._run(lambda connection: connection.client.execute(sql))

    def version(self) -> tuple[int, ...]:
        return self._run(self._version)

    def close(self) -> None:
        with self._lock:
            everything, self._all = list(self._all), weakref.WeakSet()
        for connection in everything:
            _disconnect(connection)

    def _run(self, work: Callable[[_Connection], T]) -> T:
        connection = self._connection()
        try:
            return work(connection)
        except Exception as error:
            # The rest of a response may still arrive, so the connection cannot be used again.
            self._drop(connection)
            raise sink_error(error, user=self._target.user) from None

    def _connection(self) -> _Connection:
        connection: _Connection | None = getattr(self._local, "connection", None)
        if connection is not None and connection.pid != os.getpid():
            _disconnect(connection)
            connection = None
        try:
            if connection is None:
                connection = _Connection(self._new_client(), os.getpid())
                connection.driver.connect()
            elif not connection.driver.connected or not connection.driver.ping():
                connection.version = None  # it may be another server now
                connection.driver.password = self._target.password() or ""
                connection.driver.connect()
        except Exception as error:
            if connection is not None:
                self._drop(connection)
            raise sink_error(error, user=self._target.user, connecting=True) from None
        self._local.connection = connection
        with self._lock:
            self._all.add(connection)
        return connection

    def _drop(self, connection: _Connection) -> None:
        self._local.connection = None
        _disconnect(connection)

    def _new_client(self) -> Any:
        target = self._target
        connect_seconds = target.connect_timeout.total_seconds()
        return _client_class(self._driver)(
            target.host,
            port=target.port,
            database=target.database,
            user=target.user,
            password=target.password() or "",
            client_name="formrelay",
            connect_timeout=connect_seconds,
            sync_request_timeout=connect_seconds,
            send_receive_timeout=target.timeout.total_seconds(),
            compression="lz4",
            tcp_keepalive=True,
            secure=target.secure,
            # The system's store; by default the driver trusts certifi only, not a company's CA.
            ca_certs=ssl.get_default_verify_paths().cafile if target.secure else None,
        )

    def _version(self, connection: _Connection) -> tuple[int, ...]:
        if connection.version is None:
            connection.version = parse_version(connection.client.execute("SELECT version()")[0][0])
        return connection.version


@cache
def _client_class(driver: Any) -> Any:
    """The driver's client with a faster conversion of times, for which it uses pytz."""

    class Client(driver.Client):  # type: ignore[misc]
        def send_data(self, sample_block: Any, data: Any, **options: Any) -> Any:
            if options.get("columnar"):
                kinds = [kind for _, kind in sample_block.columns_with_types]
                data = [_ticks(kind, column) for kind, column in zip(kinds, data, strict=True)]
            return super().send_data(sample_block, data, **options)

    return Client


def _ticks(kind: str, column: Sequence[Any]) -> Sequence[Any]:
    """Convert the times of a column to the integers of its type; return other columns as is."""
    if not column or not all(isinstance(at, datetime) and at.tzinfo for at in column):
        return column
    if kind == "DateTime" or kind.startswith("DateTime("):
        return [int(at.timestamp()) for at in column]
    if kind.startswith("DateTime64(3"):
        return [int(at.timestamp()) * 1000 + at.microsecond // 1000 for at in column]
    return column


def _disconnect(connection: _Connection) -> None:
    with suppress(Exception):
        if connection.pid == os.getpid():
            connection.client.disconnect()
        else:
            # The parent still uses this socket, and disconnect() would shut it down for both
            # processes. So close only our copy of the descriptor.
            connection.driver.socket.close()
            connection.driver.reset_state()
