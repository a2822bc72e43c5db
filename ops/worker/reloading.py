"""Restarts the workers of ``formrelay worker --reload`` when a Python file changes.

The supervisor imports no module of the user. It forks a child, which checks the configuration and
becomes Dramatiq's process, so a file that cannot be imported ends the child alone. Files are
compared by size and time, because that needs no package and works on every file system.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ..output import say_error

#: Seconds between two looks at the files, and at the workers.
_EVERY, _STEP = 0.5, 0.1
#: Folders without a developer's code. Hidden folders and virtual environments are left out too.
_IGNORED = {"__pycache__", "node_modules", "site-packages"}
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Option of Linux' ``prctl``: the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


def run_with_reload(start: Callable[[], NoReturn], folder: Path) -> int:
    """Run workers until they are stopped; restart them when a Python file in ``folder`` changes.

    If the workers end by themselves before the first restart, their exit status is returned, as
    without a supervisor. After a restart, which a mistake in the changed file may have ended, the
    next change starts them again.

    Args:
        start: called in a child process; replaces that process with the workers.

    Returns:
        The exit status.
    """
    files, workers = _Files(folder), _Workers()
    was_restarted = False
    with _stopped_by_signals(workers) as is_stopping:
        workers.start(start)
        while True:
            changed = None
            while workers.status is None and not is_stopping() and changed is None:
                workers.wait(_EVERY)
                changed = files.changed()
            if changed is None:
                status = workers.end()
                if is_stopping() or not was_restarted:
                    return status
                say_error(
                    f"formrelay: the workers ended with status {status}; a change of a Python "
                    "file starts them again"
                )
                while changed is None and not is_stopping():
                    time.sleep(_STEP)
                    changed = files.changed()
            if changed is not None:
                what = (
                    "starting" if workers.status is not None else "finishing the jobs, restarting"
                )
                say_error(f"formrelay: {changed} changed: {what} the workers")
                workers.end()
            if is_stopping():
                return 0
            files.changed()  # changes up to now are part of what is started
            workers.start(start)
            was_restarted = True


class _Files:
    """Size and time of each Python file below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = dict(self._stats())

    def changed(self) -> str | None:
        """Return the path of a file that changed since the last call; None if none did."""
        found, known = dict(self._stats()), self._known
        self._known = found
        for path in found.keys() | known.keys():
            if found.get(path) != known.get(path):
                return os.path.relpath(path, self._folder)
        return None

    def _stats(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for folder, folders, names in os.walk(self._folder):
            folders[:] = [
                name
                for name in folders
                if name not in _IGNORED
                and not name.startswith(".")
                and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
            ]
            for name in names:
                if name.endswith(".py"):
                    path = os.path.join(folder, name)
                    with suppress(OSError):  # it was just removed
                        stat = os.stat(path)
                        yield path, (stat.st_mtime_ns, stat.st_size)


class _Workers:
    """The child process that becomes the workers, in a process group of its own.

    Ctrl-C on a terminal reaches the supervisor alone, which passes it on once: Dramatiq takes a
    second signal as the order to leave its jobs unfinished.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._is_told = False
        #: Exit status, or minus the number of a signal; None while the process runs.
        self.status: int | None = 0

    def start(self, start: Callable[[], NoReturn]) -> None:
        """Start the workers."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        supervisor = os.getpid()
        sys.stdout.flush()  # or the child would print it too
        pid = os.fork()
        if not pid:
            _become_child(supervisor)
            start()
        self._pid, self._is_told, self.status = pid, False, None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def wait(self, seconds: float) -> None:
        """Wait until the workers have ended, at most for so many seconds."""
        end = time.monotonic() + seconds
        while self.status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= end:
                return
            else:
                time.sleep(_STEP)

    def tell(self, *, again: bool = False) -> None:
        """Tell the workers to finish their jobs and end; again: to end at once."""
        if self.status is None and (again or not self._is_told):
            self._is_told = True
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)

    def end(self) -> int:
        """End the workers; returns the exit status, 0 if they were told before they had started."""
        self.tell()
        while self.status is None:
            self.wait(_EVERY)
        if self.status == -signal.SIGTERM and self._is_told:
            return 0
        return self.status if self.status >= 0 else 128 - self.status


def _become_child(supervisor: int) -> None:
    """Undo what the supervisor has set up, and end with it."""
    os.setpgid(0, 0)
    for number in _SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    with suppress(AttributeError, OSError):  # Linux only
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != supervisor:  # it ended before prctl
        os._exit(0)
    # Python takes cached bytecode for current if the source has the same size and second.
    os.putenv("PYTHONDONTWRITEBYTECODE", "1")  # for the program that this process executes


@contextmanager
def _stopped_by_signals(workers: _Workers) -> Iterator[Callable[[], bool]]:
    """Stop the workers at a signal, and at once at the second.

    Yields:
        a function that returns whether a signal has come.
    """
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        workers.tell(again=len(received) > 1)

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
