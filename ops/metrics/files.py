"""The files of all worker processes of a machine, and the sum of the processes that ended.

A process has two files, named by its id: ``ID.json`` has its last snapshot, and ``ID.alive`` is
locked by the process. The system releases the lock when the process ends. ``ID.alive`` also holds
the time at which the process last ran, which it overwrites in place: that works on a full disk,
where a snapshot can no longer be written. The counts of ended
processes are added to ``merged.json``, and their files are removed. That file names the
processes whose files may be left, so an interruption between both steps counts nothing twice.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

import orjson

from ...core.errors import ConfigError
from ..locked_file import LockedFile, try_lock
from .snapshot import Counts, ProcessState, Snapshot, add_counts, counts_from_json, counts_to_json

logger = logging.getLogger("formrelay.workers")

_MERGED, _PORT_LOCK = "merged.json", "port.lock"
_ALIVE, _JSON, _TEMPORARY = ".alive", ".json", ".tmp"
#: Age of a temporary file, in seconds, from which its process died while it wrote it.
_ABANDONED = 60.0
#: Number of times that a reader without the right to merge starts again.
_TRIES = 20


@dataclass(slots=True)
class Ended:
    """The sum of the processes that ended.

    Attributes:
        ids: ids of the processes whose files may be left.
        number: grows with each change, by which readers notice one.
    """

    ids: set[str] = field(default_factory=set)
    counts: Counts = field(default_factory=dict)
    starts: int = 0
    crashes: int = 0
    recycles: int = 0
    number: int = 0

    def add(self, snapshot: Snapshot) -> None:
        """Add a process that ended."""
        self.ids.add(snapshot.id)
        self.starts += 1
        self.crashes += not snapshot.has_ended
        self.recycles += snapshot.state is ProcessState.RECYCLED
        add_counts(self.counts, snapshot.counts)


@dataclass(frozen=True, slots=True)
class Machine:
    """The worker processes of this machine.

    Attributes:
        live: the last snapshot of each live process, by id.
        counts: of all processes, live and ended, since the folder exists.
        starts: number of processes that started.
        crashes: number of processes that ended without saying so.
        recycles: number of processes that ended to be replaced.
    """

    live: tuple[Snapshot, ...]
    counts: Counts
    starts: int
    crashes: int
    recycles: int


class WorkerFiles:
    """The folder with the files of all worker processes. Thread-safe.

    Args:
        folder: made if it is missing, for this user alone.

    Raises:
        ConfigError: the folder cannot be used, or another user may write to it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock()
        #: While this process serves the port, it merges.
        self._port: LockedFile | None = None
        _make_private(folder)

    # -- of this process ---------------------------------------------------------------

    def register(self, snapshot: Snapshot) -> LockedFile:
        """Add a process: write its first snapshot, and lock its file.

        Raises:
            OSError: the folder cannot be written to.
        """
        self.write(snapshot)
        # Renamed when it is locked: an unlocked file is that of a dead process.
        path = self.folder / f"{snapshot.id}{_ALIVE}{_TEMPORARY}"
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        locked = LockedFile(fd)
        locked.write_time()
        path.rename(self.folder / f"{snapshot.id}{_ALIVE}")
        return locked

    def write(self, snapshot: Snapshot) -> None:
        """Replace the snapshot of a process.

        Raises:
            OSError: the folder cannot be written to.
        """
        self._replace(f"{snapshot.id}{_JSON}", snapshot.to_bytes())

    def ensure_folder(self) -> None:
        """Make the folder again if a program that cleans up old files has removed it.

        Raises:
            OSError: the folder cannot be made.
        """
        if not self.folder.exists():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    # -- the port ----------------------------------------------------------------------

    @property
    def has_port(self) -> bool:
        """Whether this process may listen on the port."""
        return self._port is not None

    def take_port(self) -> bool:
        """Lock the right to listen on the port; False if another process has it.

        Raises:
            OSError: the folder cannot be written to.
        """
        with self._lock:
            if self._port is not None:
                if self._port.exists:
                    return True
                self._port.close()  # a program that cleans up old files has removed it
                self._port = None
            self._port = try_lock(self.folder / _PORT_LOCK)
            return self._port is not None

    def leave_port(self) -> None:
        """Let another process listen on the port."""
        with self._lock:
            if self._port is not None:
                self._port.close()
                self._port = None

    # -- of all processes --------------------------------------------------------------

    def read(self) -> Machine:
        """Read the files of all processes. The process with the port also merges and removes.

        Raises:
            OSError: the folder cannot be read, or not be written to.
        """
        with self._lock:
            if self._port is not None:
                ended = self._read_ended()
                return _machine(ended, self._merge(ended))
            for _ in range(_TRIES):
                ended = self._read_ended()
                live, dead = self._snapshots(ended.ids)
                if self._read_ended().number == ended.number:  # or files were removed meanwhile
                    break
            for snapshot in dead:
                ended.add(snapshot)
            return _machine(ended, live)

    def _merge(self, ended: Ended) -> list[Snapshot]:
        """Add the processes that ended, remove their files, and return the live processes."""
        left = {path.stem for path in self._paths(_ALIVE)} | {p.stem for p in self._paths(_JSON)}
        live, dead = self._snapshots(ended.ids)
        if dead:
            ended.ids &= left
            for snapshot in dead:
                ended.add(snapshot)
            ended.number += 1
            try:
                self._replace(_MERGED, _to_bytes(ended))
            except OSError:  # a full disk, which the workers log: pages and probes still answer
                return live
        for id in ended.ids & left:
            for suffix in (_JSON, _ALIVE):  # the lock last: it marks the process
                (self.folder / f"{id}{suffix}").unlink(missing_ok=True)
        self._remove_abandoned()
        return live

    def _snapshots(self, merged: set[str]) -> tuple[list[Snapshot], list[Snapshot]]:
        """Read the snapshots of the live processes, and of ended processes that are not merged."""
        live: list[Snapshot] = []
        dead: list[Snapshot] = []
        for path in sorted(self._paths(_ALIVE)):
            if path.stem in merged:
                continue
            # First: the last snapshot of a process that ends now is complete.
            is_alive = _is_locked(path)
            try:
                snapshot = Snapshot.from_bytes((path.parent / f"{path.stem}{_JSON}").read_bytes())
            except FileNotFoundError:
                continue
            except ValueError as error:
                logger.warning("cannot read the counts of a process", extra={"error": str(error)})
                if not is_alive:
                    path.unlink(missing_ok=True)
                continue
            if is_alive and (last := _written_time(path)) > snapshot.monotonic:
                snapshot = replace(snapshot, monotonic=last)
            (live if is_alive else dead).append(snapshot)
        return live, dead

    def _paths(self, suffix: str) -> Iterator[Path]:
        return (path for path in self.folder.glob(f"*{suffix}") if path.name != _MERGED)

    def _read_ended(self) -> Ended:
        try:
            found = orjson.loads((self.folder / _MERGED).read_bytes())
            return Ended(
                set(map(str, found["ids"])),
                counts_from_json(found["counts"]),
                *(int(found[name]) for name in ("starts", "crashes", "recycles", "number")),
            )
        except FileNotFoundError:
            return Ended()
        except (ValueError, TypeError, KeyError, AttributeError):
            logger.warning("cannot read the counts of ended workers: they begin again at zero")
            return Ended()

    def _remove_abandoned(self) -> None:
        """Remove what processes left that were killed while they wrote a file."""
        for path in self.folder.glob(f"*{_TEMPORARY}"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink(missing_ok=True)
        for path in self._paths(_JSON):
            alive = path.with_suffix(_ALIVE)
            with suppress(FileNotFoundError):
                if not alive.exists() and time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink(missing_ok=True)

    def _replace(self, name: str, data: bytes) -> None:
        temporary = self.folder / f"{name}.{os.getpid()}{_TEMPORARY}"
        fd = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        temporary.rename(self.folder / name)


def _machine(ended: Ended, live: list[Snapshot]) -> Machine:
    counts = ended.counts
    for snapshot in live:
        add_counts(counts, snapshot.counts)
    starts = ended.starts + len(live)
    return Machine(tuple(live), counts, starts, ended.crashes, ended.recycles)


def _to_bytes(ended: Ended) -> bytes:
    found = {name: getattr(ended, name) for name in ("starts", "crashes", "recycles", "number")}
    counts = counts_to_json(ended.counts)
    return orjson.dumps(found | {"ids": sorted(ended.ids), "counts": counts})


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two processes that look at the same time do not see each other's lock.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _written_time(path: Path) -> float:
    try:
        return float(path.read_bytes())
    except (OSError, ValueError):  # a worker of an older version writes nothing
        return 0.0


def _make_private(folder: Path) -> None:
    """Make the folder, and check that no other user can put files into it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ConfigError(
            f"expected to make the folder {folder}, got: {error.strerror}; set WORKER_HTTP_DIR to "
            "a folder that workers may write to"
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigError(
            f"expected {folder} to be a folder of this user, got one of another user: set "
            "WORKER_HTTP_DIR to another folder"
        )
    if found.st_mode & 0o022:
        raise ConfigError(
            f"expected {folder} to be writable by this user alone, got mode "
            f"{stat.S_IMODE(found.st_mode):o}: chmod 700 {folder}"
        )
