"""What the servers share: a port, a folder, a life that tests can cut short."""

from __future__ import annotations

import abc
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from tests.support.servers.run import Run, current_run
from tests.support.waiting import wait_until

_given_ports: set[int] = set()


class ServerError(RuntimeError):
    """A test server did not start, or is not there to be started."""


class Server(abc.ABC):
    """One server of our own on 127.0.0.1.

    The port and `data_dir` stay the same over `stop()`, `kill()` and `restart()`, so
    what the server had on disk is there again. `close()`, or leaving the `with`
    block, ends it and removes its data.
    """

    kind: ClassVar[str]
    package: ClassVar[str]
    """The Debian package, or packages, that have the program."""

    def __init__(self, run: Run | None = None) -> None:
        self._run = run or current_run()
        self.port = free_port()
        self.data_dir = self._run.folder / f"{self.kind}-{self.port}"
        self.data_dir.mkdir()
        self.log = self.data_dir / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @abc.abstractmethod
    def program(cls) -> str | None:
        """The server's program, or None when it is not installed."""

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """Where clients connect."""

    @abc.abstractmethod
    def launch(self) -> None:
        """Start the process and return at once; `wait_ready()` waits for it."""

    @abc.abstractmethod
    def _answers(self) -> bool:
        """Whether a client would be served now; may raise OSError for no."""

    def exports(self) -> dict[str, str]:
        """The environment variables by which tests find this server."""
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
        """Whether the process lives (it may not answer yet)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start and wait until clients are served."""
        self.launch()
        return self.wait_ready()

    def wait_ready(self, timeout: float = 90.0) -> Self:
        """Wait until clients are served; `ServerError` with the log's tail if that fails."""
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
        """SIGTERM: an orderly end, waited for; SIGKILL after `timeout` seconds."""
        if self._process is None or not self.running:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        if self._process is not None and self.running:
            self._process.kill()
            self._process.wait()

    def restart(self) -> Self:
        """An orderly end and a new start on the same port and data."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, as with a hung host."""
        os.kill(self.pid, signal.SIGSTOP)
        # On a busy machine its threads run on for a while.
        wait_until(self._is_stopped)

    def _is_stopped(self) -> bool:
        threads = Path(f"/proc/{self.pid}/task")
        if not threads.exists():  # no Linux
            return True
        stats = [(thread / "stat").read_text() for thread in threads.iterdir()]
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

    def resume(self) -> None:
        """SIGCONT, after `pause()`."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it for good and remove its data."""
        self.kill()
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def log_tail(self, lines: int = 15) -> str:
        """The end of the server's own log."""
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
                start_new_session=True,  # a Ctrl-C in the terminal is for the tests
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
            # Otherwise the stranger there would answer for the server that cannot start.
            raise ServerError(f"{self.kind}: something else listens on port {self.port}")
        return program

    def _ask(self, question: bytes, timeout: float = 2.0) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
            connection.sendall(question)
            return connection.recv(512)


def free_port() -> int:
    """A port that nothing listens on and that no outgoing connection is given.

    The system's own choice (bind to port 0) lies in the range of outgoing
    connections. While a server restarts, a client that keeps trying could be given
    the server's port, or even connect to itself; so the choice is made below it.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        if port not in _given_ports and _is_free(port):
            _given_ports.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: closed connections of the one before must not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def find_program(*candidates: str) -> str | None:
    """The first candidate (a name on the PATH or in sbin, or a path) that can be run."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    found = (shutil.which(candidate, path=path) for candidate in candidates)
    return next(filter(None, found), None)


def write(path: Path, text: str) -> Path:
    """Write a configuration file and return its path."""
    path.write_text(text)
    return path
