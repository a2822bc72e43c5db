"""A lock that one process of a machine holds, for monitors without a shared store."""

from __future__ import annotations

import fcntl
import os
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

from ...core.process import current_pid
from ...state.digests import digest

_held: weakref.WeakSet[MachineLock] = weakref.WeakSet()


class MachineLock:
    """Locks a file of this user in the folder for temporary files; a dead process holds no lock.

    Args:
        name: what the lock is for; the file has its digest only.
    """

    def __init__(self, name: str) -> None:
        file = f"formrelay-monitor-{os.getuid()}-{digest(name)[:16]}"
        self.path = Path(tempfile.gettempdir()) / file
        self._descriptor: int | None = None
        self._pid = 0

    def hold(self) -> bool:
        """Take the lock, or keep it; returns False if another process holds it.

        Without a usable file, every process holds it: two alerts are better than none.
        """
        if self._descriptor is not None and self._pid == current_pid():
            return True
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.path, flags, 0o600)
        except OSError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor, self._pid = descriptor, current_pid()
        _held.add(self)
        return True

    def let_go(self) -> None:
        """Give the lock back, if this process holds it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)


def _close_in_child() -> None:
    """Close the files in a forked process: otherwise it would hold the lock of its parent."""
    for lock in list(_held):
        lock.let_go()


os.register_at_fork(after_in_child=_close_in_child)
