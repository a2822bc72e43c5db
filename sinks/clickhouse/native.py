"""``clickhouse://`` and ``clickhouses://``: the native protocol, by clickhouse-driver."""

from __future__ import annotations

import importlib
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

from ...core.errors import ConfigError
from .client import MODERN, Target, create_database_sql, identifier, parse_version, token_settings
from .errors import check_block, hush_drivers, sink_error

T = TypeVar("T")


@dataclass(slots=True, weakref_slot=True, eq=False)
class _Held:
    """One connection, which belongs to one thread of one process."""

    client: Any
    pid: int
    version: tuple[int, ...] | None = None


class NativeClickHouse:
    """A ClickHouse by its native protocol: one connection a thread, opened when needed.

    A connection that failed is dropped and the next call opens another, for
    which the password is read again. The driver's time-out is that of one
    read, so a server that keeps sending progress is waited for.
    """

    def __init__(self, target: Target) -> None:
        self._driver = _import_driver()
        self._target = target
        self._local = threading.local()
        self._all: weakref.WeakSet[_Held] = weakref.WeakSet()
        self._lock = threading.Lock()
        hush_drivers()

    @property
    def database(self) -> str:
        return self._target.database

    @property
    def supports_dedup_token(self) -> bool:
        return self.version() >= MODERN

    def insert(
        self,
        table: str,
        columns: Sequence[str],
        data: Sequence[Sequence[Any]],
        *,
        token: str | None = None,
    ) -> None:
        if not check_block(columns, data):
            return
        names = ", ".join(identifier(column) for column in columns)
        sql = f"INSERT INTO {identifier(table)} ({names}) VALUES"

        def work(held: _Held) -> None:
            # An unknown setting is an error on old servers, so it is sent only where known.
            known = token is not None and self._version(held) >= MODERN
            settings = token_settings(token) if known else None
            held.client.execute(sql, list(data), columnar=True, settings=settings)

        self._run(work)

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        return self._run(
            lambda held: list(held.client.execute(sql, dict(params) if params else None))
        )

    def command(self, sql: str) -> None:
        self._run(lambda held: held.client.execute(sql))

    def create_database(self, cluster: str | None = None) -> None:
        # A connection that names a missing database is refused, so this one names none.
        client = self._new_client(database="")
        try:
            client.execute(create_database_sql(self.database, cluster))
        except Exception as error:
            raise sink_error(error, user=self._target.user) from None
        finally:
            client.disconnect()

    def version(self) -> tuple[int, ...]:
        return self._run(self._version)

    def ping(self) -> None:
        self.query("SELECT 1")

    def close(self) -> None:
        with self._lock:
            everything, self._all = list(self._all), weakref.WeakSet()
        for held in everything:
            _let_go(held)

    def _run(self, work: Callable[[_Held], T]) -> T:
        held = self._held()
        try:
            return work(held)
        except Exception as error:
            # Half an answer may still be on its way: this connection is of no more use.
            self._drop(held)
            raise sink_error(error, user=self._target.user) from None

    def _held(self) -> _Held:
        held: _Held | None = getattr(self._local, "held", None)
        if held is not None and held.pid != os.getpid():
            _let_go(held)
            held = None
        try:
            if held is None:
                held = _Held(self._new_client(database=self.database), os.getpid())
                held.client.connection.connect()
            elif not held.client.connection.connected or not held.client.connection.ping():
                held.version = None  # it may be another server by now
                held.client.connection.password = self._target.password() or ""
                held.client.connection.connect()
        except Exception as error:
            if held is not None:
                self._drop(held)
            raise sink_error(error, user=self._target.user, connecting=True) from None
        self._local.held = held
        with self._lock:
            self._all.add(held)
        return held

    def _drop(self, held: _Held) -> None:
        self._local.held = None
        _let_go(held)

    def _new_client(self, *, database: str) -> Any:
        target = self._target
        connect_seconds = target.connect_timeout.total_seconds()
        return _client_class()(
            target.host,
            port=target.port,
            database=database,
            user=target.user,
            password=target.password() or "",
            client_name="formrelay",
            connect_timeout=connect_seconds,
            sync_request_timeout=connect_seconds,
            send_receive_timeout=target.timeout.total_seconds(),
            compression=_compression(),
            tcp_keepalive=True,
            secure=target.secure,
            # The system's store, else the driver trusts certifi alone and no company's own CA.
            ca_certs=ssl.get_default_verify_paths().cafile if target.secure else None,
        )

    def _version(self, held: _Held) -> tuple[int, ...]:
        if held.version is None:
            held.version = parse_version(held.client.execute("SELECT version()")[0][0])
        return held.version


@cache
def _client_class() -> Any:
    """The driver's client, quicker with times: it converts each in Python, by way of pytz."""

    class Client(_import_driver().Client):  # type: ignore[misc]
        def send_data(self, sample_block: Any, data: Any, **options: Any) -> Any:
            if options.get("columnar"):
                kinds = [kind for _, kind in sample_block.columns_with_types]
                data = [_ticks(kind, column) for kind, column in zip(kinds, data, strict=True)]
            return super().send_data(sample_block, data, **options)

    return Client


def _ticks(kind: str, column: Sequence[Any]) -> Sequence[Any]:
    """The times of a column as the numbers that its type is made of; others as they are."""
    if not column or not all(isinstance(at, datetime) and at.tzinfo for at in column):
        return column
    if kind == "DateTime" or kind.startswith("DateTime("):
        return [int(at.timestamp()) for at in column]
    if kind.startswith("DateTime64(3"):
        return [int(at.timestamp()) * 1000 + at.microsecond // 1000 for at in column]
    return column


def _let_go(held: _Held) -> None:
    with suppress(Exception):
        if held.pid == os.getpid():
            held.client.disconnect()
        else:
            # The parent still speaks on this socket: disconnect() would shut it for
            # both, so only our copy of the descriptor goes.
            held.client.connection.socket.close()
            held.client.connection.reset_state()


def _import_driver() -> Any:
    try:
        return importlib.import_module("clickhouse_driver")
    except ImportError:
        raise ConfigError(
            "expected the package clickhouse-driver for clickhouse://, it is not installed: "
            "pip install 'formrelay[clickhouse]'"
        ) from None


def _compression() -> str | bool:
    try:
        importlib.import_module("lz4.block")
        importlib.import_module("clickhouse_cityhash.cityhash")
    except ImportError:
        return False
    return "lz4"
