"""Runs the ``formrelay`` and ``dramatiq`` commands as a user does."""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from formrelay.config.settings import known_names
from tests.support import fork_server


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
    request = json.dumps({"arguments": arguments, "cwd": str(cwd), "env": dict(env)}).encode()
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as printed,
        tempfile.TemporaryFile() as errors,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        given.write(stdin.encode())
        given.seek(0)
        connection.connect(_fork_server())
        streams = [given.fileno(), printed.fileno(), errors.fileno()]
        socket.send_fds(connection, [request], streams)
        connection.settimeout(timeout)
        answer = b""
        try:
            while data := connection.recv(64):
                answer += data
        except TimeoutError:
            os.kill(int(answer), signal.SIGKILL)
            raise subprocess.TimeoutExpired(arguments, timeout) from None
        printed.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(
            arguments, int(answer.split()[1]), printed.read().decode(), errors.read().decode()
        )


@functools.cache
def _fork_server() -> str:
    """Start this process's fork server; returns the path of its socket."""
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
