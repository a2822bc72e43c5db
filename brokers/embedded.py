"""The embedded broker: a Valkey server with its data in a folder, started on demand.

The first process that uses it starts a *keeper* (embedded_keeper.py). The keeper runs the server
and stops it some seconds after the last process has ended. One command can thus send a job and
another command run it; the jobs are kept in the append-only file.

Each process holds a shared lock on ``users.lock``, which the system releases when the process ends.
When the keeper gets the exclusive lock, no process uses the server.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO
from urllib.parse import quote

from .embedded_keeper import PROGRAM as KEEPER
from .embedded_keeper import START_SECONDS, answers
from .errors import BrokerRefused, BrokerUnavailable

#: Linux limits the path of a socket to 108 bytes.
_MAX_SOCKET_PATH = 100

_users: dict[Path, IO[str]] = {}


def ensure_running(data_dir: Path, *, port: int | None = None) -> str:
    """Start the server of ``data_dir`` unless it runs; return its URL.

    Args:
        data_dir: the folder that contains the data, in ``valkey/``.
        port: also listen on this port of 127.0.0.1, for tools.

    Raises:
        BrokerRefused: the folder cannot be written, the port is in use, or the
            ``embedded`` extra is not installed.
        BrokerUnavailable: the server did not start.
    """
    home = _home(data_dir)
    if home not in _users:
        _users[home] = _lock(home / "users.lock", fcntl.LOCK_SH)
    socket = _socket_path(home)
    with _lock(home / "start.lock", fcntl.LOCK_EX):
        if not (answers(socket) and _is_locked(home / "keeper.lock")):
            _start_keeper(home, socket, port)
    return f"unix://{quote(str(socket))}"


def is_running(data_dir: Path) -> bool:
    """Whether the server of ``data_dir`` runs. Creates nothing."""
    home = data_dir.absolute() / "valkey"
    return (home / "keeper.lock").exists() and _is_locked(home / "keeper.lock")


def release(data_dir: Path) -> None:
    """Stop using the server of ``data_dir``; the end of the process has the same effect."""
    lock = _users.pop(data_dir.absolute() / "valkey", None)
    if lock is not None:
        lock.close()


def _home(data_dir: Path) -> Path:
    home = data_dir.absolute() / "valkey"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (home / "users.lock").open("a"):
            pass
    except OSError as error:
        raise BrokerRefused(
            f"expected to write in the data folder {data_dir}, got '{error.strerror}': "
            "set EMBEDDED_DATA_DIR to a folder that this user may write"
        ) from None
    return home


def _socket_path(home: Path) -> Path:
    socket = home / "valkey.sock"
    if len(os.fsencode(socket)) <= _MAX_SOCKET_PATH:
        return socket
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"formrelay-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    stat = folder.lstat()
    if stat.st_uid != os.getuid() or stat.st_mode & 0o077:
        raise BrokerRefused(
            f"expected {folder} to be accessible to this user only, it is not: remove it, or set "
            "EMBEDDED_DATA_DIR to a shorter path"
        )
    return folder / "valkey.sock"


def _lock(path: Path, kind: int) -> IO[str]:
    file = path.open("a")
    fcntl.flock(file, kind)
    return file


def _is_locked(path: Path) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _start_keeper(home: Path, socket: Path, port: int | None) -> None:
    log = home / "keeper.log"
    with log.open("wb") as output:
        keeper = subprocess.Popen(  # noqa: S603 - our own interpreter and program
            # As a file, since `-m` would import the whole package. `-P` keeps the modules beside it
            # off the path.
            [sys.executable, "-P", KEEPER, str(home), str(socket), str(port or "")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # So that Ctrl-C in the terminal does not stop it.
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if answers(socket):
            return
        if keeper.poll():  # status 0: another keeper is already starting the server
            lines = log.read_text(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"exit status {keeper.returncode}"
            raise BrokerRefused(f"the embedded broker did not start: {reason}")
        time.sleep(0.02)
    raise BrokerUnavailable(
        f"expected the embedded broker in {home} to answer within {START_SECONDS:.0f} s, "
        f"it did not: see {log}"
    )
