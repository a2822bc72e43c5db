"""The id of this process, by which code notices a fork, and whether other processes still run."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

_pid = os.getpid()


def current_pid() -> int:
    """``os.getpid()`` without a system call, for code that asks once for each message."""
    return _pid


def _forked() -> None:
    global _pid
    _pid = os.getpid()


os.register_at_fork(after_in_child=_forked)


class Fate(StrEnum):
    """Whether a process runs, is stopped or has ended."""

    RUNS = "runs"
    #: Stopped by a signal or a debugger: it runs no code until it is continued.
    STOPPED = "stopped"
    ENDED = "ended"
    #: It ran on another machine, in another container, or the system does not say.
    UNKNOWN = "unknown"


def process_key(pid: int | None = None) -> str:
    """A text that names a process for as long as the machine runs; empty if the system has none.

    It is made of the machine's boot, the container (PID namespace), the process id and the
    process' start, so it is never the key of a later process with the same id. Linux only.

    Args:
        pid: default: this process.
    """
    pid = current_pid() if pid is None else pid
    stat = _stat(pid)
    return f"{place}/{pid}/{stat[1]}" if stat is not None and (place := _place()) else ""


def fate_of(key: str) -> Fate:
    """Tell whether the process of a :func:`process_key` still runs; asks the system each time."""
    place, _, process = key.rpartition("/")[0].rpartition("/")
    if not process.isdigit() or not place or place != _place():
        return Fate.UNKNOWN
    stat = _stat(int(process))
    if stat is None or f"{place}/{process}/{stat[1]}" != key or stat[0] in "ZX":
        return Fate.ENDED
    return Fate.STOPPED if stat[0] in "Tt" else Fate.RUNS


def parent_of(pid: int) -> int | None:
    """The id of the parent of a process; None if there is no such process. Linux only."""
    fields = _fields(pid)
    return None if fields is None else int(fields[1])


def _stat(pid: int) -> tuple[str, str] | None:
    """State (one letter) and start of a process; None if there is no such process."""
    fields = _fields(pid)
    return None if fields is None else (fields[0], fields[19])


def _fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third; None if there is no such process."""
    try:
        # The second field, the command in parentheses, may contain anything.
        found = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return found if len(found) > 19 else None


def _place() -> str:
    """The boot of this machine and the container of this process; empty if not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""
