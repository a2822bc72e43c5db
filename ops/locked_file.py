"""Files that a process locks while it does what only one process of a machine may do."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from weakref import WeakSet


class LockedFile:
    """An open file with an exclusive lock, until :meth:`close` or the end of the process.

    A forked process closes its copy, so that it does not hold the lock for its parent.
    """

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd
        _locked.add(self)

    @property
    def exists(self) -> bool:
        """Whether the file still is in its folder."""
        return self._fd is not None and os.fstat(self._fd).st_nlink > 0

    def write_time(self) -> None:
        """Write the time into the file, in place, which works on a full disk; never raises."""
        if self._fd is not None:
            with suppress(OSError):
                os.pwrite(self._fd, b"%020.3f" % time.monotonic(), 0)

    def close(self) -> None:
        """Release the lock."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


_locked: WeakSet[LockedFile] = WeakSet()


def _in_child() -> None:
    for each in list(_locked):
        each.close()


os.register_at_fork(after_in_child=_in_child)


def try_lock(path: Path) -> LockedFile | None:
    """Open a file, made if it is missing, and lock it; None if another process has locked it.

    Raises:
        OSError: the file cannot be opened or locked.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    return LockedFile(fd)
