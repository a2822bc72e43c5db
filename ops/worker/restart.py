"""Replaces the program of a worker process by a new one, unseen by Dramatiq's main process.

The main process of ``dramatiq`` stops all workers when one of them ends. So a process that is
recycled keeps its id and calls ``execv``. Two pipes stay open: the pipe of its log lines, and the
pipe by which ``multiprocessing`` notices the end of the process.

``Process._args`` and ``Process._bootstrap`` are private, but the ways to start a process (fork,
spawn, forkserver) are built on them: tried with Python 3.11, 3.12 and 3.13.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import Any, NoReturn

from ...core.exit_reason import exit_reason

#: The program of a recycled process; its argument is JSON. Python's path may not lead to formrelay
#: before it is set.
_PROGRAM = (
    "import json, sys; about = json.loads(sys.argv.pop()); sys.path[:] = about['path']; "
    f"from {__name__} import run_again; run_again(about)"
)
#: The signals that Dramatiq handles.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_count = 0


def recycle_count() -> int:
    """How many times this process was recycled."""
    return _count


@dataclass(frozen=True)
class Restart:
    """The arguments with which Dramatiq's main process started this process.

    Attributes:
        options: the options of the ``dramatiq`` command.
        log_pipe: the pipe of the log lines, a file descriptor that Dramatiq does not close.
        kept: file descriptors that stay open.
    """

    name: str
    worker_id: int
    options: dict[str, Any]
    log_pipe: int
    kept: frozenset[int]

    def prepare(self, held: Callable[[], Iterable[int]]) -> None:
        """Restart this process at its end, if it ends in order to be recycled.

        Args:
            held: returns further file descriptors that stay open.
        """
        # After everything else that multiprocessing does at the end, such as closing the log.
        Finalize(None, lambda: self._replace_program(held()), exitpriority=-100)

    def _replace_program(self, held: Iterable[int]) -> None:
        if exit_reason() != "recycled":
            return
        getattr(threading, "_shutdown", lambda: None)()  # waits for threads, as at any other end
        # A signal from now on is pending until Dramatiq handles it in the new program.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        if exit_reason() != "recycled":
            return
        held = tuple(held)
        for file in _open_files():
            with suppress(OSError):
                os.set_inheritable(file, file in self.kept or file in held)
        about = {
            "name": self.name,
            "worker_id": self.worker_id,
            "options": self.options,
            "log_pipe": self.log_pipe,
            "held": held,
            "count": _count + 1,
            "path": sys.path,
            "argv": sys.argv,
        }
        flags: Any = getattr(subprocess, "_args_from_interpreter_flags", list)
        command = [sys.executable, *flags(), "-c", _PROGRAM, json.dumps(about)]
        os.execv(command[0], command)  # noqa: S606 - our own interpreter


def find_restart() -> Restart | None:
    """Read how this process was started; None if Dramatiq's command line did not start it.

    Call it before the user's code opens pipes: pipes that are open now stay open.
    """
    process = multiprocessing.current_process()
    match getattr(process, "_args", None):
        case (Namespace() as options, int() as worker_id, pipe, *_) if hasattr(pipe, "pipe"):
            log_pipe = os.dup(pipe.pipe.fileno())  # Dramatiq closes its own
            pipes = frozenset(file for file in _open_files() if _is_written_pipe(file))
            kept = pipes - {pipe.pipe.fileno()} | {0, 1, 2, log_pipe}
            return Restart(process.name, worker_id, vars(options), log_pipe, kept)
    return None


def run_again(about: dict[str, Any]) -> NoReturn:
    """Run a worker process with the arguments of its predecessor. Exits the process."""
    global _count
    from multiprocessing.connection import Connection

    from dramatiq import cli

    from .turns import take_over

    _count = about["count"]
    sys.argv[:] = about["argv"]
    take_over(about["held"])
    command: Any = cli  # has no types
    pipe = command.StreamablePipe(Connection(about["log_pipe"], readable=False))
    arguments = (
        *(Namespace(**about["options"]), about["worker_id"], pipe),
        # The main process reads the forks and waits for the start only at the first start.
        *(multiprocessing.get_context("fork").Value(command.Canteen), threading.Event()),
    )
    process: Any = multiprocessing.Process(
        target=command.worker_process, name=about["name"], args=arguments
    )
    status = process._bootstrap()
    # Python 3.13 no longer calls multiprocessing's functions for the end in _bootstrap().
    exit_functions: Any = atexit
    exit_functions._run_exitfuncs()
    os._exit(status)


def _open_files() -> list[int]:
    return [int(name) for name in os.listdir("/dev/fd")]


def _is_written_pipe(file: int) -> bool:
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(file).st_mode)
        return is_pipe and fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
    except OSError:  # the descriptor with which the folder was read
        return False
