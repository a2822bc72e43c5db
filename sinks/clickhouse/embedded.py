"""``chdb://folder``: the ClickHouse engine inside this process, for demos and tests."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...core.errors import ConfigError
from . import path_lock
from .client import Target, create_database
from .connect_client import ConnectClickHouse


class EmbeddedClickHouse(ConnectClickHouse):
    """The engine in this process: one folder a process, one process a folder.

    Opening takes 0.3 s and happens on first use, since a process that is
    forked after it hangs in the engine. Time-outs, user and password have no
    meaning here. The database is created when it is missing.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target, extra="embedded")
        # The engine compares folders by their spelling.
        self._path = str(Path(os.path.expanduser(target.path)).resolve())
        self._lock = threading.Lock()
        self._open: Any = None
        self._pid = 0

    def create_database(self, cluster: str | None = None) -> None:
        self.command(create_database(self.database, cluster))

    def close(self) -> None:
        with self._lock:
            if self._open is None or self._pid != os.getpid():
                return
            with suppress(Exception):
                self._open.close()
            self._open = None
            path_lock.release(self._path)

    def _client(self) -> Any:
        if self._open is not None and self._pid != os.getpid():
            # Asked before the lock, which another thread may have held at the fork.
            raise path_lock.forked(self._path, self._pid)
        with self._lock:
            if self._open is None:
                path_lock.acquire(self._path)
                try:
                    self._open = self._new()
                except BaseException:
                    path_lock.release(self._path)
                    raise
                self._pid = os.getpid()
            return self._open

    def _failed(self, error: Exception) -> None:
        # The engine lives as long as the process; there is no connection to lose.
        pass

    def _new(self) -> Any:
        try:
            client = self._connect.get_client(interface="chdb", path=self._path)
        except ImportError:
            raise ConfigError(
                "expected the package chdb-core-lite for chdb://, it is not installed: "
                "pip install 'formrelay[embedded]'"
            ) from None
        except self._connect.driver.exceptions.ProgrammingError:
            # A process that does not know of our lock (clickhouse-local, say) has it.
            raise path_lock.in_use(self._path) from None
        client.command(create_database(self.database, None))
        client.database = self.database
        return client
