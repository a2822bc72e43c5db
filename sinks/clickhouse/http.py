"""``http://`` and ``https://``: ClickHouse's HTTP port, by clickhouse-connect."""

from __future__ import annotations

import math
import os
import ssl
import threading
from contextlib import suppress
from typing import Any

from ...core.errors import SinkTransient
from .client import Target, create_database
from .connect_client import ConnectClickHouse
from .errors import code_of, sink_error

_UNKNOWN_IDENTIFIER = 47


class HttpClickHouse(ConnectClickHouse):
    """A ClickHouse by HTTP: one client for all threads, over its own pool.

    It is opened again after a fork (the parent's sockets are not ours) and
    when the password has changed.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target, extra="clickhouse")
        self._lock = threading.Lock()
        self._open: Any = None
        self._pid = 0
        self._password: str | None = None
        self._failures: list[Exception] = []

    def create_database(self, cluster: str | None = None) -> None:
        self._run_without_database(create_database(self.database, cluster))

    def close(self) -> None:
        with self._lock:
            self._close()

    def _client(self) -> Any:
        password = self._target.password() or ""
        before = self._failures
        with self._lock:
            if self._open is None or self._pid != os.getpid() or self._password != password:
                if self._failures is not before:
                    # Else each thread would wait out a host that hangs, one after the other.
                    raise self._failures[0]
                self._close()
                try:
                    self._open = self._new(password, self.database)
                except Exception as error:
                    self._failures = [error]
                    raise
                self._pid, self._password = os.getpid(), password
                self._knows_token = None
            return self._open

    def _failed(self, error: Exception) -> None:
        # urllib3's pool replaces broken connections by itself.
        pass

    def _run_without_database(self, sql: str) -> None:
        try:
            client = self._new(self._target.password() or "", None)
        except Exception as error:
            raise sink_error(error, user=self._target.user, connecting=True) from None
        try:
            client.command(sql)
        except Exception as error:
            raise sink_error(error, user=self._target.user) from None
        finally:
            with suppress(Exception):
                client.close()

    def _close(self) -> None:
        # After a fork the parent's client is left alone: closing it would speak on its sockets.
        if self._open is not None and self._pid == os.getpid():
            with suppress(Exception):
                self._open.close()
        self._open = None

    def _new(self, password: str, database: str | None) -> Any:
        from clickhouse_connect.driver.httputil import get_pool_manager

        target = self._target
        ca_file = ssl.get_default_verify_paths().cafile if target.secure else None
        try:
            return self._connect.get_client(
                interface=target.scheme,
                host=target.host,
                port=target.port,
                database=database or "__default__",
                username=target.user,
                password=password,
                client_name="formrelay",
                # Whole seconds are all it takes; a part of one must not become 0.
                connect_timeout=math.ceil(target.connect_timeout.total_seconds()),
                send_receive_timeout=math.ceil(target.timeout.total_seconds()),
                autogenerate_session_id=False,  # a session refuses a second query at a time
                # A pool of our own: not shared, and no proxy from the environment.
                pool_mgr=get_pool_manager(ca_cert=ca_file),
                query_retries=0,  # the queue retries
            )
        except self._connect.driver.exceptions.Error as error:
            if code_of(error) == _UNKNOWN_IDENTIFIER:
                raise SinkTransient(
                    "this ClickHouse is too old for http:// (clickhouse-connect could not read "
                    "its settings): set CLICKHOUSE_URL to its native port, clickhouse://",
                    code=_UNKNOWN_IDENTIFIER,
                ) from None
            raise
