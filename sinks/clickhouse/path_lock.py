"""One process a folder: the lock beside an embedded ClickHouse's folder."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from pathlib import Path

from ...core.errors import ConfigError, SinkUnavailable

_guard = threading.Lock()
#: The folder that this process has open: (path, pid, descriptor, how often).
_held: tuple[str, int, int, int] | None = None


def acquire(path: str) -> None:
    """Take the folder for this process; a second call for the same folder counts up.

    Raises:
        ConfigError: the folder cannot be written to, or another one is open here
            (the engine takes one a process).
        SinkUnavailable: another process has it, or this one was forked from it.
    """
    global _held
    with _guard:
        if _held is not None:
            held_path, pid, descriptor, count = _held
            if pid != os.getpid():
                raise forked(held_path, pid)
            if held_path != path:
                raise ConfigError(
                    f"expected one chdb:// folder a process, got '{path}' while '{held_path}' "
                    "is open: close that one first, or use a ClickHouse server"
                )
            _held = (held_path, pid, descriptor, count + 1)
            return
        _held = (path, os.getpid(), _lock(path), 1)


def release(path: str) -> None:
    """Undo one :func:`acquire`; the last one lets the folder go."""
    global _held
    with _guard:
        if _held is None or _held[0] != path or _held[1] != os.getpid():
            return
        _, pid, descriptor, count = _held
        if count > 1:
            _held = (path, pid, descriptor, count - 1)
            return
        _held = None
        os.close(descriptor)


def forked(path: str, opener: int) -> SinkUnavailable:
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
            pass  # asking for permissions would say yes to root on a read-only mount
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(
            f"expected a folder that can be written to after chdb:// in CLICKHOUSE_URL, got "
            f"'{path}' ({type(error).__name__})"
        ) from None
    try:
        # A POSIX lock and not flock(): that one would pass to a forked child and
        # outlive us in it.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise in_use(path, owner) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def in_use(path: str, owner: str = "") -> SinkUnavailable:
    """The error for a folder that another process has open."""
    return SinkUnavailable(
        f"chdb:// folder '{path}' is in use by another process{f' ({owner})' if owner else ''}: "
        "chdb:// allows one process a folder. Run one worker process (--processes 1), give the "
        "other a folder of its own, or use a ClickHouse server"
    )
