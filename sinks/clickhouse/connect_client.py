"""ClickHouse clients over clickhouse-connect: the base class, and HTTP."""

from __future__ import annotations

import math
import os
import ssl
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from .client import (
    HostClickHouse,
    Target,
    identifier,
    import_driver,
    parse_version,
    token_settings,
)
from .errors import filter_driver_logs, sink_error

T = TypeVar("T")


class ConnectClickHouse(HostClickHouse):
    """A client whose subclass opens the driver's client."""

    def __init__(self, target: Target, *, extra: str) -> None:
        super().__init__(target)
        self._connect = import_driver("clickhouse_connect", extra=extra)
        filter_driver_logs()

    @abstractmethod
    def _client(self) -> Any:
        """The open client of clickhouse-connect. Raises the driver's errors."""

    def _insert(
        self, table: str, columns: Sequence[str], data: Sequence[Sequence[Any]], token: str | None
    ) -> None:
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
                    self._open = self._new(password)
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

    def _new(self, password: str) -> Any:
        from clickhouse_connect.driver.httputil import get_pool_manager

        target = self._target
        ca_file = ssl.get_default_verify_paths().cafile if target.secure else None
        return self._connect.get_client(
            interface=target.scheme,
            host=target.host,
            port=target.port,
            database=target.database or "__default__",
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
