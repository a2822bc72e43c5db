"""``chdb://folder``: the ClickHouse engine inside this process, for demos and tests."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import ConfigError, SinkUnavailable
from .client import Target, create_database_sql
from .connect_client import ConnectClickHouse


@dataclass(slots=True)
class _Folder:
    """The folder that a process has open, the descriptor of its lock, and its clients."""

    path: str
    pid: int
    descriptor: int
    clients: int = 1


_guard = threading.Lock()
#: The open folder of this process.
_opened: _Folder | None = None


class EmbeddedClickHouse(ConnectClickHouse):
    """The engine in this process. A process can open one folder, and a folder one process.

    The engine is opened at first use (0.3 s), because a process that is forked afterwards would
    hang. Time-outs, user and password are not used. The database is created if it is missing.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target, extra="embedded")
        # Resolved, because the engine compares folders as text.
        self._path = str(Path(os.path.expanduser(target.path)).resolve())
        self._lock = threading.Lock()
        self._open: Any = None
        self._pid = 0

    def create_database(self, cluster: str | None = None) -> None:
        self.command(create_database_sql(self.database, cluster))

    def close(self) -> None:
        with self._lock:
            if self._open is None or self._pid != os.getpid():
                return
            with suppress(Exception):
                self._open.close()
            self._open = None
            _release(self._path)

    def _client(self) -> Any:
        if self._open is not None and self._pid != os.getpid():
            # Before the lock, which another thread may have held at the fork.
            raise _forked(self._path, self._pid)
        with self._lock:
            if self._open is None:
                _acquire(self._path)
                try:
                    self._open = self._new()
                except BaseException:
                    _release(self._path)
                    raise
                self._pid = os.getpid()
            return self._open

    def _new(self) -> Any:
        try:
            client = self._connect.get_client(interface="chdb", path=self._path)
        except ImportError:
            raise ConfigError(
                "expected the package chdb-core-lite for chdb://, it is not installed: "
                "pip install 'formrelay[embedded]'"
            ) from None
        except self._connect.driver.exceptions.ProgrammingError:
            # A process without our lock, such as clickhouse-local, has the folder open.
            raise _in_use(self._path) from None
        client.command(create_database_sql(self.database, None))
        client.database = self.database
        return client


def _acquire(path: str) -> None:
    """Lock the folder for this process, or count another client of it.

    Raises:
        ConfigError: the folder cannot be written to, or this process has another folder open
            (the engine allows one).
        SinkUnavailable: another process has the folder open, or this process was forked from
            the one that has.
    """
    global _opened
    with _guard:
        if _opened is None:
            _opened = _Folder(path, os.getpid(), _lock(path))
        elif _opened.pid != os.getpid():
            raise _forked(_opened.path, _opened.pid)
        elif _opened.path != path:
            raise ConfigError(
                f"expected one chdb:// folder per process, got '{path}' while '{_opened.path}' "
                "is open: close that folder first, or use a ClickHouse server"
            )
        else:
            _opened.clients += 1


def _release(path: str) -> None:
    """Undo :func:`_acquire`; the last client unlocks the folder."""
    global _opened
    with _guard:
        if _opened is None or _opened.path != path or _opened.pid != os.getpid():
            return
        _opened.clients -= 1
        if not _opened.clients:
            os.close(_opened.descriptor)
            _opened = None


def _forked(path: str, opener: int) -> SinkUnavailable:
    """The error for a process forked after the engine was opened, which would hang in it."""
    return SinkUnavailable(
        f"chdb:// folder '{path}' was opened by process {opener} before this one was forked "
        "from it: open it after the fork only (formrelay does so on first use)"
    )


def _lock(path: str) -> int:
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass  # os.access() would allow root to write to a read-only mount
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(
            f"expected a folder that can be written to after chdb:// in CLICKHOUSE_URL, got "
            f"'{path}' ({type(error).__name__})"
        ) from None
    try:
        # A POSIX lock. A forked child would inherit a lock of flock().
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise _in_use(path, owner) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _in_use(path: str, owner: str = "") -> SinkUnavailable:
    """The error for a folder that another process has open."""
    return SinkUnavailable(
        f"chdb:// folder '{path}' is in use by another process{f' ({owner})' if owner else ''}: "
        "chdb:// allows one process per folder. Run one worker process (--processes 1), give the "
        "other a folder of its own, or use a ClickHouse server"
    )
