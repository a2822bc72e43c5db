"""A lock that one process of a machine holds, for monitors without a shared store."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ...state.digests import digest
from ..locked_file import LockedFile, try_lock


class MachineLock:
    """Locks a file of this user in the folder for temporary files; a dead process holds no lock.

    Args:
        name: identifies the lock; the file name has its digest only.
    """

    def __init__(self, name: str) -> None:
        file = f"formrelay-monitor-{os.getuid()}-{digest(name)[:16]}"
        self.path = Path(tempfile.gettempdir()) / file
        self._file: LockedFile | None = None

    def hold(self) -> bool:
        """Take the lock, or keep it; returns False if another process holds it.

        Without a usable file, every process holds it: two alerts are better than none.
        """
        if self._file is not None and self._file.exists:
            return True
        self.let_go()  # a program that cleans up old files has removed the file
        try:
            self._file = try_lock(self.path)
        except OSError:
            return True
        return self._file is not None

    def let_go(self) -> None:
        """Give the lock back, if this process holds it."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
