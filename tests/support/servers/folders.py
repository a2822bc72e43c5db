"""The folders of runs, removed also if a run is killed together with its guard.

`scripts/test` has them in memory, where a server's `fsync` costs nothing: on a disk, a seventh of
the CPU of a whole test run is the kernel's work for RabbitMQ's `fsync`. Benchmarks and
`scripts/servers.py up` have them on disk.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.support.servers.guard import sweep

VARIABLE = "FORMRELAY_TEST_FOLDER"
"""Names the folder in which runs make theirs; by default the system's for temporary files."""

_MEMORY = Path("/dev/shm")
#: Free bytes for a whole test run.
_ENOUGH = 4 * 2**30
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_NAME = re.compile(r"formrelay-([0-9a-f]{16})")
#: Seconds in which a new folder gets its lock.
_NEW = 60.0


def make(token: str) -> tuple[Path, int]:
    """Make the folder of a run, and remove folders of runs that were killed with their guards.

    Returns:
        The folder, and a descriptor that locks it. The run and its guard hold it until they end.
    """
    base = Path(os.environ.get(VARIABLE) or tempfile.gettempdir())
    clear(base)
    # Outside the checkout: paths stay short, and leftovers cannot be committed or packaged.
    folder = base / f"formrelay-{token}"
    folder.mkdir(mode=0o700)
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def clear(base: Path) -> None:
    """Remove the folders of runs that ended without clearing up, and kill their processes."""
    for folder in base.iterdir():
        name = _NAME.fullmatch(folder.name)
        if not name or not _is_old_and_ours(folder):
            continue
        with suppress(OSError):  # locked, so its run or guard is alive; or removed meanwhile
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                sweep(name[1])
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _is_old_and_ours(folder: Path) -> bool:
    with suppress(FileNotFoundError):
        status = folder.stat()
        return status.st_uid == os.geteuid() and time.time() - status.st_mtime > _NEW
    return False


def in_memory() -> str | None:
    """The folder for :data:`VARIABLE` that is in memory; None if memory is short."""
    if not os.access(_MEMORY, os.W_OK | os.X_OK) or min(_free()) < _ENOUGH:
        return None
    return str(_MEMORY)


def _free() -> Iterator[int]:
    """The bytes that are free in the folder, in the machine and in the container."""
    yield shutil.disk_usage(_MEMORY).free
    memory = Path("/proc/meminfo").read_text()
    available = re.search(r"^MemAvailable: +(\d+) kB$", memory, re.MULTILINE)
    yield int(available[1]) * 1024 if available else 0
    for limit in map(Path, _LIMITS):
        with suppress(OSError, ValueError):  # without a limit it is "max"
            yield int(limit.read_text())
