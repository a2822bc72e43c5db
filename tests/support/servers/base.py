"""The base class of test servers: port, folder, start, stop and kill."""

from __future__ import annotations

import abc
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from tests.support.servers.run import Run, current_run
from tests.support.waiting import wait_until

#: Claim of each port that this process uses.
_used_ports: dict[int, socket.socket | None] = {}


class ServerError(RuntimeError):
    """A test server did not start, or its program is missing."""


class Process(Protocol):
    """What a server needs of its process: `subprocess.Popen`, or a program of the fork server."""

    pid: int
    returncode: int | Any

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Server(abc.ABC):
    """A server on 127.0.0.1.

    `stop()`, `kill()` and `restart()` keep the port and `data_dir`, so the server starts again with
    the data that it had on disk. `close()`, or the end of the `with` block, stops the server and
    removes its data.
    """

    kind: ClassVar[str]
    package: ClassVar[str]
    """Debian packages that contain the program, separated by spaces."""

    def __init__(self, run: Run | None = None) -> None:
        self._run = run or current_run()
        self.port = free_port()
        self.data_dir = self._run.folder / f"{self.kind}-{self.port}"
        self.data_dir.mkdir()
        self.log = self.data_dir / "server.log"
        self._process: Process | None = None

    @classmethod
    @abc.abstractmethod
    def program(cls) -> str | None:
        """Path of the server's program; None if it is not installed."""

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """URL for clients."""

    @abc.abstractmethod
    def launch(self) -> None:
        """Start the process and return at once; `wait_ready()` waits for it."""

    @abc.abstractmethod
    def _answers(self) -> bool:
        """Whether the server answers clients; may raise OSError if it does not."""

    def exports(self) -> dict[str, str]:
        """Environment variables that tell tests about this server."""
        prefix = f"FORMRELAY_TEST_{self.kind.upper()}"
        return {f"{prefix}_URL": self.url, f"{prefix}_PID": str(self.pid)}

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None or self._process.poll() is not None:
            raise ServerError(f"{self.kind} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive (it may not answer yet)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the server and wait until it answers."""
        self.launch()
        return self.wait_ready()

    def wait_ready(self, timeout: float = 90.0) -> Self:
        """Wait until the server answers.

        Raises:
            ServerError: it does not; the message has the end of the server's log.
        """
        try:
            wait_until(self._is_up, timeout=timeout, every=0.05)
        except AssertionError:
            self.kill()
            raise ServerError(
                f"{self.kind} did not answer on port {self.port} within {timeout:.0f} s;"
                f" its log ends:\n{self.log_tail()}"
            ) from None
        return self

    def _is_up(self) -> bool:
        if not self.running:
            assert self._process is not None
            raise ServerError(
                f"{self.kind} ended with status {self._process.returncode} while starting"
                f" (port {self.port}); its log ends:\n{self.log_tail()}"
            )
        try:
            return self._answers()
        except OSError:
            return False

    def stop(self, timeout: float = 30.0) -> None:
        """Send SIGTERM and wait for the end; SIGKILL after `timeout` seconds."""
        if self._process is None or not self.running:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL and wait for the end, to simulate a crash."""
        if self._process is not None and self.running:
            self._process.kill()
            self._process.wait()

    def restart(self) -> Self:
        """Stop the server and start it again with the same port and data."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Send SIGSTOP: connections stay open and nothing answers, as with a hung host."""
        os.kill(self.pid, signal.SIGSTOP)
        # On a busy machine, threads continue to run for a while.
        wait_until(self._is_stopped)

    def _is_stopped(self) -> bool:
        threads = Path(f"/proc/{self.pid}/task")
        if not threads.exists():  # not Linux
            return True
        stats = [(thread / "stat").read_text() for thread in threads.iterdir()]
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

    def resume(self) -> None:
        """Send SIGCONT, after `pause()`."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill the server and remove its data."""
        self.kill()
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def log_tail(self, lines: int = 15) -> str:
        """Last lines of the server's log."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return "(no log)"
        return "\n".join("    " + line for line in text.splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spawn(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, **options: str
    ) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                argv,
                cwd=self.data_dir,
                env={**self._run.env(), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal reaches only the tests
                **options,
            )
        self._run.started.append(process)
        return process

    def _require_program(self) -> str:
        if self.running:
            raise ServerError(f"{self.kind} is running already")
        program = self.program()
        if program is None:
            raise ServerError(f"{self.kind} is not installed: apt-get install {self.package}")
        if not _is_free(self.port):
            # Otherwise the other program would answer, and this server would seem to have started.
            raise ServerError(f"{self.kind}: something else listens on port {self.port}")
        return program

    def _ask(self, request: bytes, timeout: float = 2.0) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
            connection.sendall(request)
            return connection.recv(512)


def free_port() -> int:
    """A free port below the range of ports for outgoing connections.

    The system's own choice (bind to port 0) lies in that range. While a server restarts, a client
    that tries to reconnect could get the server's port as its own, or even connect to itself.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        if port in _used_ports or not _is_free(port):
            continue
        with contextlib.suppress(OSError):
            _used_ports[port] = _claim(port)
            return port


def _claim(port: int) -> socket.socket | None:
    """Claim a port among all test processes of the machine, until this process ends.

    RabbitMQ needs seconds until it listens, when another process may find the port free.

    Raises:
        OSError: another process has claimed it.
    """
    if sys.platform != "linux":  # which alone has names of sockets without files
        return None
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0formrelay-test-port-{port}")
    except OSError:
        claim.close()
        raise
    return claim


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Servers set this too: closed connections of an earlier server do not occupy the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def find_program(*candidates: str) -> str | None:
    """The first candidate that can be executed: a name on the PATH or in sbin, or a path."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    found = (shutil.which(candidate, path=path) for candidate in candidates)
    return next(filter(None, found), None)


def write(path: Path, text: str) -> Path:
    """Write a configuration file and return its path."""
    path.write_text(text)
    return path
