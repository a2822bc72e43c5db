"""The demo's child processes: started, watched, and stopped whatever happens."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .environment import without_ours
from .errors import CannotStart, DemoFailed

#: How long a child may take to end by itself.
_STOP_SECONDS = 15.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Child:
    """A running child process and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Children:
    """All of them. Each leads a process group: Ctrl-C reaches the parent alone, which
    ends them in order, and what a child has started ends with it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._all: list[Child] = []

    def serve(self, name: str, module: str, listening: socket.socket, told: Any) -> None:
        """Start one of the demo's servers on a socket that is listening already."""
        descriptor = listening.fileno()
        command = without_ours([sys.executable, "-m", module])
        child = self._start(name, command, stdin=subprocess.PIPE, pass_fds=[descriptor])
        assert child.process.stdin is not None
        line = json.dumps({"fd": descriptor, **told}) + "\n"
        # Left open: its end tells the child that this process has ended.
        with suppress(BrokenPipeError):  # it ended at once: check() says so
            child.process.stdin.write(line.encode())
            child.process.stdin.flush()

    def work(self, name: str, queues: Sequence[str], threads: int) -> None:
        """Start a worker as anybody would, by dramatiq's own command line."""
        command = [sys.executable, "-m", "dramatiq", "formrelay.worker"]
        command += ["--processes", "1", "--threads", str(threads), "--queues", *queues]
        # What ClickHouse puts down for a while goes with the folder, if a worker is killed.
        env = without_ours(command, TMPDIR=str(self._folder))
        self._start(name, env, preexec_fn=_end_with_parent())

    def check(self) -> None:
        """Raise if one has ended.

        Raises:
            DemoFailed: with its name and the end of its log.
        """
        for child in self._all:
            status = child.process.poll()
            if status is not None:
                raise DemoFailed(
                    f"the process '{child.name}' ended with status {status}{_tail(child.log)}"
                )

    def tails(self) -> str:
        """The end of every log, for an error's text."""
        return "".join(_tail(child.log) for child in self._all)

    def stop(self, *, only: str = "", patience: float = _STOP_SECONDS) -> None:
        """Ask them (those whose name begins with ``only``) to end, wait, and make sure.

        Args:
            patience: seconds; what has not ended by then is killed.
        """
        stopping = [child for child in self._all if child.name.startswith(only)]
        for child in stopping:
            with suppress(ProcessLookupError):
                child.process.terminate()
        deadline = time.monotonic() + patience
        for child in stopping:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
            # The group outlives its leader when a worker's master was killed under it.
            with suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
            if child.process.stdin is not None:
                with suppress(BrokenPipeError):
                    child.process.stdin.close()
            self._all.remove(child)  # only now: a Ctrl-C on the way must find it here

    def _start(
        self,
        name: str,
        command: Sequence[str],
        *,
        stdin: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        preexec_fn: Callable[[], None] | None = None,
    ) -> Child:
        log = self._folder / f"{name.replace(' ', '-')}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and modules
                command,
                stdin=stdin,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                pass_fds=pass_fds,
                start_new_session=True,
                preexec_fn=preexec_fn,
            )
        child = Child(name, process, log)
        self._all.append(child)
        return child


def listen(port: int, option: str) -> socket.socket:
    """A socket that listens on 127.0.0.1; port 0 is any free one.

    Raises:
        CannotStart: the port is in use, or not this user's to take.
    """
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise CannotStart(
            f"expected port {port} on 127.0.0.1 to be free, got '{error.strerror}': "
            f"give another one with {option}, or leave it out"
        ) from None
    return listening


def port_of(listening: socket.socket) -> int:
    """The port that a socket listens on."""
    port = listening.getsockname()[1]
    assert isinstance(port, int)
    return port


def _end_with_parent() -> Callable[[], None] | None:
    """What a child runs so that it gets SIGTERM when this process is killed; Linux only.

    The two servers need it not: their standard input ends.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded here: little is safe between fork and exec
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _tail(log: Path, lines: int = 8) -> str:
    with suppress(OSError):
        found = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if found:
            shown = "\n".join(f"    {line[:300]}" for line in found[-lines:])
            return f"\n  the end of {log}:\n{shown}"
    return f"\n  its log is empty: {log}"
