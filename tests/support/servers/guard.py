"""Ends everything that a run started, whatever becomes of the run itself.

A run is one process that starts others: `scripts/servers.py`, `scripts/test`, or
a pytest whose tests start a server of their own. Each has a token that stands in
the environment of all it starts, and so of what those start in turn. The guard is
a small process beside the run; when the run is gone, by its own end or by
`kill -9`, the guard kills whatever still carries the token and removes the run's
folder. Nothing else is ever touched: a server that somebody else started does
not carry the token.

It reads `/proc`, so on a system without one a run that is killed with SIGKILL
leaves its servers behind; every other ending works there too.

Used as a program: `python guard.py TOKEN FOLDER`, its standard input a pipe that
the run holds open.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

TOKENS = "FORMRELAY_TEST_RUN"
GUARD = "guard"
"""The token of a guard, which no run may sweep away: it clears up after its own."""

_PROC = Path("/proc")


def carriers(token: str) -> set[int]:
    """The processes whose environment holds `token`, and their children.

    Children as well, because some (a Redis or Valkey, unless told not to) write their
    title over their environment. Never the caller itself, never a guard.
    """
    if not _PROC.is_dir():
        return set()
    parents = {
        int(entry.name): _parent(int(entry.name))
        for entry in _PROC.iterdir()
        if entry.name.isdigit() and int(entry.name) != os.getpid()
    }
    found = {pid for pid in parents if token in _tokens(pid)}
    while more := {
        pid
        for pid, parent in parents.items()
        if parent in found and pid not in found and GUARD not in _tokens(pid)
    }:
        found |= more
    return found


def sweep(token: str, *, patience: float = 0.0, timeout: float = 10.0) -> list[str]:
    """End every carrier of `token`, and return the command lines of those found.

    With `patience` they get that many seconds to end after a SIGTERM; then SIGKILL.
    Looks again until none is left, because one may have forked while it was read.
    """
    handles: dict[int, int] = {}
    names: list[str] = []
    begun = time.monotonic()
    try:
        while True:
            new = _pin(token, handles)
            names += [_command_line(pid) for pid in new]
            passed = time.monotonic() - begun
            living = [handle for handle in handles.values() if not _ended(handle)]
            if not living or passed > patience + timeout:
                return names
            late = passed >= patience
            for handle in living if late else new.values():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL if late else signal.SIGTERM)
            select.select(living, [], [], 0.02)  # until one of them has ended
    finally:
        for handle in handles.values():
            os.close(handle)


def _pin(token: str, handles: dict[int, int]) -> dict[int, int]:
    # A file descriptor on a process pins it: its number may be given to another
    # meanwhile, the descriptor never means that one. Hence a second look, once it is
    # held; and a child can be ended although its parent, by which it was found, is not
    # there any more.
    new: dict[int, int] = {}
    for pid in carriers(token) - handles.keys():
        with contextlib.suppress(ProcessLookupError):
            new[pid] = os.pidfd_open(pid)
    confirmed = carriers(token) if new else set()
    for pid in new.keys() - confirmed:
        os.close(new.pop(pid))
    handles |= new
    return new


def _ended(handle: int) -> bool:
    return bool(select.select([handle], [], [], 0)[0])


def _tokens(pid: int) -> list[str]:
    try:
        environ = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:  # gone meanwhile, or another user's
        return []
    prefix = f"{TOKENS}=".encode()
    for entry in environ.split(b"\0"):
        if entry.startswith(prefix):
            return entry.removeprefix(prefix).decode(errors="replace").split(":")
    return []


def _parent(pid: int) -> int:
    try:
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return 0
    # The name before it may hold spaces and parentheses; a zombie is nobody's child.
    state, parent = stat.rpartition(")")[2].split()[:2]
    return 0 if state == "Z" else int(parent)


def _command_line(pid: int) -> str:
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        raw = b""
    return f"{pid} {raw.replace(bytes(1), b' ').decode(errors='replace').strip()[:120]}"


def _wait_for_end_of(owner: int) -> None:
    # The pipe alone would do, but a child that the run forked without exec holds a
    # copy of its other end.
    while os.getppid() == owner:
        readable, _, _ = select.select([sys.stdin], [], [], 0.5)
        if readable and not os.read(sys.stdin.fileno(), 1):
            return


def main() -> None:
    """Wait for the run's end, then clear up after it."""
    token, folder = sys.argv[1:]
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    _wait_for_end_of(os.getppid())
    sweep(token)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
