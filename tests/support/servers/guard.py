"""Kills all processes that a run has started, even if the run itself was killed.

A run is a process that starts others: `scripts/servers.py`, `scripts/test`, or a pytest whose tests
start servers. It puts a token into the environment of its children, which their children inherit.
The guard is a small process beside the run. When the run ends, also by `kill -9`, the guard kills
all processes with the token and removes the run's folder. It touches no other process.

The guard reads `/proc`. On a system without `/proc`, a run that is killed with SIGKILL leaves its
servers running; all other ends work there too.

Usage: `python guard.py TOKEN FOLDER`, with a pipe as standard input that the run keeps open.
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
"""Token of guards, which no other run may kill."""

_PROC = Path("/proc")


def carriers(token: str) -> set[int]:
    """Process ids of all processes with `token` in their environment, and of their children.

    A child may lack the token: by default, Redis and Valkey write their title over their
    environment. The caller and guards are left out.
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
    """Kill every carrier of `token`; returns their command lines.

    Looks again until no carrier is left, because a carrier may have forked meanwhile.

    Args:
        patience: seconds between SIGTERM and SIGKILL; 0 sends SIGKILL at once.
        timeout: seconds after which it gives up, counted from the first SIGKILL.
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
            select.select(living, [], [], 0.02)  # until a process has ended
    finally:
        for handle in handles.values():
            os.close(handle)


def _pin(token: str, handles: dict[int, int]) -> dict[int, int]:
    # The system may reuse a process id, but a pidfd always means the same process. So open the
    # pidfds first, then check again which processes carry the token. A pidfd also reaches a child
    # whose parent, by which it was found, has ended.
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
    except OSError:  # it has ended, or belongs to another user
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
    # The command name, which comes first, may contain spaces and parentheses. Zombies do not count.
    state, parent = stat.rpartition(")")[2].split()[:2]
    return 0 if state == "Z" else int(parent)


def _command_line(pid: int) -> str:
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        raw = b""
    return f"{pid} {raw.replace(bytes(1), b' ').decode(errors='replace').strip()[:120]}"


def _wait_for_end_of(owner: int) -> None:
    # The end of the pipe is not enough: a child that the run forked without exec keeps it open.
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
