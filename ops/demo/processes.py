"""The demo's child processes: starting, checking and stopping them."""

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

from .environment import isolated
from .errors import CannotStart, DemoFailed

#: Time for a child to stop before it is killed.
_STOP_SECONDS = 15.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Child:
    """A running child process and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Children:
    """All child processes of the demo.

    Each child leads a process group. So Ctrl-C reaches only the parent, which stops the children
    in order, and the processes that a child started stop with it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._all: list[Child] = []

    def serve(self, name: str, module: str, listening: socket.socket, config: Any) -> None:
        """Start one of the servers on a socket that already listens."""
        descriptor = listening.fileno()
        command = isolated([sys.executable, "-m", module])
        child = self._start(name, command, stdin=subprocess.PIPE, pass_fds=[descriptor])
        assert child.process.stdin is not None
        line = json.dumps({"fd": descriptor, **config}) + "\n"
        # Standard input stays open: the child stops when it ends.
        with suppress(BrokenPipeError):  # it ended at once: check() reports it
            child.process.stdin.write(line.encode())
            child.process.stdin.flush()

    def work(self, name: str, queues: Sequence[str], threads: int) -> None:
        """Start a worker with the dramatiq command line."""
        command = [sys.executable, "-m", "dramatiq", "formrelay.worker"]
        command += ["--processes", "1", "--threads", str(threads), "--queues", *queues]
        # ClickHouse's temporary files are removed with the folder, even if a worker is killed.
        env = isolated(command, TMPDIR=str(self._folder))
        self._start(name, env, preexec_fn=_end_with_parent())

    def check(self) -> None:
        """Check that every child is running.

        Raises:
            DemoFailed: a child has ended; the message has its name and the end of its log.
        """
        for child in self._all:
            status = child.process.poll()
            if status is not None:
                raise DemoFailed(
                    f"the process '{child.name}' ended with status {status}{_tail(child.log)}"
                )

    def tails(self) -> str:
        """Return the end of every log, for an error message."""
        return "".join(_tail(child.log) for child in self._all)

    def stop(self, *, only: str = "", timeout: float = _STOP_SECONDS) -> None:
        """Terminate children, wait, and kill those that still run.

        Args:
            only: prefix of the names of the children to stop; empty stops all.
            timeout: seconds to wait before killing.
        """
        stopping = [child for child in self._all if child.name.startswith(only)]
        for child in stopping:
            with suppress(ProcessLookupError):
                child.process.terminate()
        deadline = time.monotonic() + timeout
        for child in stopping:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
            # The group outlives its leader if only the leader was killed.
            with suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
            if child.process.stdin is not None:
                with suppress(BrokenPipeError):
                    child.process.stdin.close()
            self._all.remove(child)  # last, so that a signal in between leaves it in the list

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


def listen(port: int, option: str = "") -> socket.socket:
    """Open a socket that listens on 127.0.0.1. Port 0 picks a free port.

    Raises:
        CannotStart: the port is in use, or not permitted.
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
            f"choose another port with {option}, or omit {option}"
        ) from None
    return listening


def port_of(listening: socket.socket) -> int:
    """Return the port that a socket listens on."""
    port = listening.getsockname()[1]
    assert isinstance(port, int)
    return port


def _end_with_parent() -> Callable[[], None] | None:
    """Return a function that makes a child get SIGTERM when this process is killed. Linux only.

    The servers do not need it: their standard input ends.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded before the fork: little is safe between fork and exec
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _tail(log: Path, lines: int = 8) -> str:
    with suppress(OSError):
        found = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if found:
            shown = "\n".join(f"    {line[:300]}" for line in found[-lines:])
            return f"\n  the end of {log}:\n{shown}"
    return f"\n  its log is empty: {log}"
