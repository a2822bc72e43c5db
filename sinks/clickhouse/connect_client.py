"""ClickHouse clients over clickhouse-connect: the base class, and HTTP."""

from __future__ import annotations

import importlib
import math
import os
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from ...core.errors import ConfigError
from .client import Target, create_database_sql, identifier, parse_version, token_settings
from .errors import check_block, hush_drivers, sink_error

T = TypeVar("T")


class ConnectClickHouse(ABC):
    """A :class:`.client.ClickHouse` whose subclass opens the driver's client."""

    def __init__(self, target: Target, *, extra: str) -> None:
        self._connect = _import_connect(extra)
        self._target = target
        hush_drivers()

    @abstractmethod
    def _client(self) -> Any:
        """The open client of clickhouse-connect. Raises the driver's errors."""

    @abstractmethod
    def create_database(self, cluster: str | None = None) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    @property
    def database(self) -> str:
        return self._target.database

    @property
    def supports_dedup_token(self) -> bool:
        return True

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
        settings = None if token is None else token_settings(token)
        self._run(
            lambda client: client.insert(
                identifier(table),
                data,
                column_names=list(columns),
                column_oriented=True,
                settings=settings,
            )
        )

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        rows = self._run(
            lambda client: (
                client.query(sql, parameters=dict(params) if params else None).result_rows
            )
        )
        return [tuple(row) for row in rows]

    def command(self, sql: str) -> None:
        self._run(lambda client: client.command(sql))

    def version(self) -> tuple[int, ...]:
        return parse_version(str(self.query("SELECT version()")[0][0]))

    def ping(self) -> None:
        self.query("SELECT 1")

    def _run(self, work: Callable[[Any], T]) -> T:
        try:
            client = self._client()
        except Exception as error:
            raise sink_error(error, user=self._target.user, connecting=True) from None
        try:
            return work(client)
        except Exception as error:
            raise sink_error(error, user=self._target.user) from None


class HttpClickHouse(ConnectClickHouse):
    """``http://`` and ``https://``: one client with a connection pool for all threads.

    A new client is opened after a fork and when the password has changed.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target, extra="clickhouse")
        self._lock = threading.Lock()
        self._open: Any = None
        self._pid = 0
        self._password: str | None = None
        self._failures: list[Exception] = []

    def create_database(self, cluster: str | None = None) -> None:
        # Without a database: the server refuses a client that names a missing one.
        try:
            client = self._new(self._target.password() or "", None)
        except Exception as error:
            raise sink_error(error, user=self._target.user, connecting=True) from None
        try:
            client.command(create_database_sql(self.database, cluster))
        except Exception as error:
            raise sink_error(error, user=self._target.user) from None
        finally:
            with suppress(Exception):
                client.close()

    def close(self) -> None:
        with self._lock:
            self._close()

    def _client(self) -> Any:
        password = self._target.password() or ""
        before = self._failures
        with self._lock:
            if self._open is None or self._pid != os.getpid() or self._password != password:
                if self._failures is not before:
                    # Otherwise the waiting threads would time out one after the other.
                    raise self._failures[0]
                self._close()
                try:
                    self._open = self._new(password, self.database)
                except Exception as error:
                    self._failures = [error]
                    raise
                self._pid, self._password = os.getpid(), password
            return self._open

    def _close(self) -> None:
        # Not after a fork: closing would write to the parent's sockets.
        if self._open is not None and self._pid == os.getpid():
            with suppress(Exception):
                self._open.close()
        self._open = None

    def _new(self, password: str, database: str | None) -> Any:
        from clickhouse_connect.driver.httputil import get_pool_manager

        target = self._target
        ca_file = ssl.get_default_verify_paths().cafile if target.secure else None
        return self._connect.get_client(
            interface=target.scheme,
            host=target.host,
            port=target.port,
            database=database or "__default__",
            username=target.user,
            password=password,
            client_name="formrelay",
            # The driver accepts whole seconds only; rounded up, so that they are not 0.
            connect_timeout=math.ceil(target.connect_timeout.total_seconds()),
            send_receive_timeout=math.ceil(target.timeout.total_seconds()),
            autogenerate_session_id=False,  # a session allows one query at a time
            # The default pool is shared and uses proxies from the environment.
            pool_mgr=get_pool_manager(ca_cert=ca_file),
            query_retries=0,  # the queue retries
        )


def _import_connect(extra: str) -> Any:
    """Import clickhouse-connect.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("clickhouse_connect")
    except ImportError:
        raise ConfigError(
            "expected the package clickhouse-connect for this CLICKHOUSE_URL, it is not "
            f"installed: pip install 'formrelay[{extra}]'"
        ) from None
