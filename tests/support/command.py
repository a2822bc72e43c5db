"""Runs the ``formrelay`` and ``dramatiq`` commands as a user does, and starts workers."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from formrelay.config.settings import known_names
from tests.support import fork_server
from tests.support.waiting import wait_until

SHARED_FORK_SERVER = "FORMRELAY_TEST_FORK_SERVER"
"""Variable with the path of the fork server's socket that all processes of a run share."""


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment without formrelay's variables, plus ``variables``."""
    ours = set(known_names())
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, **variables}


def run(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str],
    program: str = "formrelay",
    stdin: str = "",
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in the folder ``cwd``, which has no ``.env``."""
    arguments = ("-m", program, *arguments)
    return run_python(
        *arguments, cwd=cwd, env=clean_environment(**env), stdin=stdin, timeout=timeout
    )


def run_python(
    *arguments: str, cwd: Path, env: Mapping[str, str], stdin: str = "", timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a Python program to its end in the fork server.

    Args:
        arguments: as on Python's command line: ``-m MODULE …``, ``-c CODE …`` or ``FILE …``.
        env: complete environment of the program.
    """
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as printed,
        tempfile.TemporaryFile() as errors,
    ):
        given.write(stdin.encode())
        given.seek(0)
        streams = [given.fileno(), printed.fileno(), errors.fileno()]
        program = Program(arguments, cwd, env, streams)
        try:
            status = program.wait(timeout)
        except subprocess.TimeoutExpired:
            program.kill()
            raise
        printed.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(
            arguments, status, printed.read().decode(), errors.read().decode()
        )


def start_python(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str],
    log: Path,
    may_exec: bool = False,
    in_session: bool = False,
) -> Program:
    """Start a Python program in the fork server, such as a worker.

    Args:
        arguments: as for `run_python`.
        env: complete environment of the program.
        log: file to which the program's output and errors are appended.
        may_exec: the program may replace itself with another Python program. Until it does, it runs
            in a child of the process.
        in_session: start a session and a process group, for `os.killpg`.
    """
    with log.open("ab") as output, open(os.devnull, "rb") as nothing:
        streams = [nothing.fileno(), output.fileno(), output.fileno()]
        return Program(arguments, cwd, env, streams, may_exec=may_exec, in_session=in_session)


class Program:
    """A Python program that runs in the fork server, with the methods of `subprocess.Popen`.

    Args:
        arguments: as for `run_python`.
        streams: file descriptors for the standard streams.
        may_exec: the program may replace itself with another Python program.
        in_session: start a session and a process group.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        streams: Sequence[int],
        *,
        may_exec: bool = False,
        in_session: bool = False,
    ) -> None:
        self.args = arguments
        self.returncode: int | None = None
        request = {"arguments": arguments, "cwd": str(cwd), "env": dict(env)}
        request |= {"may_exec": may_exec, "in_session": in_session}
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.connect(_fork_server())
        socket.send_fds(self._connection, [json.dumps(request).encode()], streams)
        self.pid = int(self._connection.recv(64))
        """The process id."""

    def poll(self) -> int | None:
        """The exit status; None while the program runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; returns the exit status, or minus the number of a signal."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._connection.recv(64))
            self._connection.close()
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """Send a signal unless the program has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


@functools.cache
def _fork_server() -> str:
    """Path of the socket of the run's fork server, or else of a server that this starts."""
    if shared := os.environ.get(SHARED_FORK_SERVER):
        wait_until(Path(shared).exists)
        return shared
    folder = tempfile.TemporaryDirectory(prefix="formrelay-")
    path = f"{folder.name}/socket"
    server = subprocess.Popen(
        [sys.executable, fork_server.__file__, path],
        cwd=folder.name,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )

    def end() -> None:
        server.kill()
        server.wait()
        folder.cleanup()

    atexit.register(end)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    return path
