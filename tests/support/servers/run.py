"""A run: a token, a folder, the guard that clears up, and commands run under it."""

from __future__ import annotations

import atexit
import functools
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.servers import guard


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP reached a process that called `raise_on_signals`."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Run:
    """What one process starts, and the certainty that it ends with that process."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(8)
        # Not in the checkout: the paths stay short, and what a kill leaves open
        # there can never be committed or packed.
        self.folder = Path(tempfile.mkdtemp(prefix="formrelay-"))
        self.started: list[subprocess.Popen[bytes]] = []
        self._owner = os.getpid()
        self._guard = subprocess.Popen(
            [sys.executable, guard.__file__, self.token, str(self.folder)],
            stdin=subprocess.PIPE,
            env={**os.environ, guard.TOKENS: guard.GUARD},
            start_new_session=True,
        )

    def env(self, label: str = "") -> dict[str, str]:
        """The environment for a process of this run; a label makes it findable on its own."""
        tokens = [os.environ.get(guard.TOKENS, ""), self.token]
        if label:
            tokens.append(self.labelled(label))
        return {**os.environ, guard.TOKENS: ":".join(filter(None, tokens))}

    def labelled(self, label: str) -> str:
        """The token of those processes that were started with `label`."""
        return f"{self.token}.{label}"

    def begin(
        self, argv: Sequence[str], output: Path, *, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Run `argv` in the background, what it prints into a file; killed when this closes."""
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

        On `Interrupted` the command gets SIGINT, whatever the signal was, since that
        is what makes pytest unwind its fixtures; after `grace` seconds it is killed.
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
        """End all that is left, remove the folder."""
        if os.getpid() != self._owner or self._guard.returncode is not None:
            return
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()


@functools.cache
def current_run() -> Run:
    """This process's own run, closed at its end."""
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
    # There a Ctrl-C has reached the command already; a second SIGINT would cut
    # pytest's teardown short.
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False
