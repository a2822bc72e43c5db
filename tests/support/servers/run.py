"""A run: the processes, the folder and the guard of a script or of pytest."""

from __future__ import annotations

import atexit
import functools
import os
import secrets
import signal
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.servers import folders, guard


class Interrupted(BaseException):
    """A process that called `raise_on_signals` received SIGINT, SIGTERM or SIGHUP."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Run:
    """Starts processes that are certain to end with this process."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(8)
        self.folder, self._lock = folders.make(self.token)
        self.started: list[subprocess.Popen[bytes]] = []
        self._owner = os.getpid()
        self._guard = subprocess.Popen(
            [sys.executable, guard.__file__, self.token, str(self.folder)],
            stdin=subprocess.PIPE,
            env={**os.environ, guard.TOKENS: guard.GUARD},
            pass_fds=(self._lock,),
            start_new_session=True,
        )

    def env(self, label: str = "") -> dict[str, str]:
        """The environment for a process of this run.

        Args:
            label: lets `sweep(run.labelled(label))` find these processes alone.
        """
        tokens = [os.environ.get(guard.TOKENS, ""), self.token]
        if label:
            tokens.append(self.labelled(label))
        return {**os.environ, guard.TOKENS: ":".join(filter(None, tokens))}

    def labelled(self, label: str) -> str:
        """Token of the processes that were started with `label`."""
        return f"{self.token}.{label}"

    def begin(
        self, argv: Sequence[str], output: Path, *, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start `argv` in the background with its output in a file; `close()` kills it."""
        with output.open("wb") as file:
            process = subprocess.Popen(
                argv,
                env={**self.env("command"), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.started.append(process)
        return process

    def command(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, grace: float = 15.0
    ) -> int:
        """Run `argv` in the foreground and return its exit status.

        After any `Interrupted`, the command gets SIGINT, because only then pytest tears down its
        fixtures; after `grace` seconds it is killed.
        """
        process = subprocess.Popen(argv, env={**self.env("command"), **(env or {})})
        try:
            return process.wait()
        except Interrupted as interrupted:
            if not (interrupted.signum == signal.SIGINT and _in_terminal_foreground()):
                process.send_signal(signal.SIGINT)
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                process.kill()
            raise

    def close(self) -> None:
        """Kill all processes of the run and remove its folder."""
        if os.getpid() != self._owner or self._guard.returncode is not None:
            return
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()
        os.close(self._lock)


@functools.cache
def current_run() -> Run:
    """The run of this process, closed when the process ends."""
    run = Run()
    atexit.register(run.close)
    return run


def raise_on_signals() -> None:
    """Turn SIGINT, SIGTERM and SIGHUP into `Interrupted`, so that `finally` runs."""

    def interrupt(signum: int, _frame: types.FrameType | None) -> None:
        raise Interrupted(signum)

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, interrupt)


def _in_terminal_foreground() -> bool:
    # In the foreground, Ctrl-C reaches the command too. A second SIGINT would abort the teardown of
    # pytest.
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False
