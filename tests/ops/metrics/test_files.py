"""The files of worker processes: counts are merged once, and ended processes leave nothing."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from formrelay.core.errors import ConfigError
from formrelay.ops.metrics.files import Machine, WorkerFiles
from formrelay.ops.metrics.snapshot import MAX_ROWS, ProcessState, Snapshot, add_counts
from tests.ops.metrics.processes import Process, jobs, snapshot

KEY = ("q", "a")


@pytest.fixture
def files(tmp_path: Path) -> Iterator[WorkerFiles]:
    """The files of the process that serves the port."""
    found = WorkerFiles(tmp_path / "http")
    assert found.take_port()
    yield found
    found.leave_port()


@pytest.fixture
def reader(files: WorkerFiles) -> WorkerFiles:
    """The files of a process that does not serve the port."""
    return WorkerFiles(files.folder)


def done(machine: Machine) -> float:
    return machine.counts.get("jobs", {}).get(KEY, [0])[0]


def numbers(machine: Machine) -> tuple[int, int, int, int]:
    return len(machine.live), machine.starts, machine.crashes, machine.recycles


def names(files: WorkerFiles) -> set[str]:
    return {path.name for path in files.folder.iterdir()}


def test_counts_of_live_and_ended_processes_are_added(files: WorkerFiles) -> None:
    one = Process(files, "1-aa", {"jobs": {KEY: jobs(3, 1, 0.5)}})
    two = Process(files, "2-bb", {"jobs": {KEY: jobs(2)}, "deferrals": {("q", "busy"): [7]}})
    machine = files.read()
    assert machine.counts["jobs"][KEY][:6] == [5, 1, 0, 0, 0.5, 6]
    assert machine.counts["deferrals"] == {("q", "busy"): [7]}
    assert numbers(machine) == (2, 2, 0, 0)
    one.write(counts={"jobs": {KEY: jobs(4, 1, 0.5)}})
    one.end()
    two.crash()
    for _ in range(2):  # the second time, they are merged
        machine = files.read()
        assert done(machine) == 6
        assert numbers(machine) == (0, 2, 1, 0)
    assert names(files) == {"merged.json", "port.lock"}


def test_two_hundred_recycled_processes_leave_their_counts_and_no_files(files: WorkerFiles) -> None:
    sizes = []
    for number in range(200):
        process = Process(files, f"{number + 1}-cc", {"jobs": {KEY: jobs(10)}})
        if number % 20 == 0:
            process.crash()
        else:
            process.end(ProcessState.RECYCLED)
        if number % 10 == 9:
            files.read()
            sizes.append(sum(path.stat().st_size for path in files.folder.iterdir()))
    machine = files.read()
    assert (done(machine), numbers(machine)) == (2_000, (0, 200, 10, 190))
    assert names(files) == {"merged.json", "port.lock"}
    assert max(sizes) < 1_000  # it does not grow: it names only the processes of the last merge


def test_an_interrupted_merge_counts_nothing_twice(
    files: WorkerFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    Process(files, "1-aa", {"jobs": {KEY: jobs(3)}}).crash()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", _killed)
        with pytest.raises(KeyboardInterrupt):  # after merged.json was written
            files.read()
    assert {"1-aa.json", "1-aa.alive", "merged.json"} <= names(files)
    Process(files, "2-bb", {"jobs": {KEY: jobs(2)}}).crash()
    for _ in range(2):
        machine = files.read()
        assert (done(machine), numbers(machine)) == (5, (0, 2, 2, 0))
    assert names(files) == {"merged.json", "port.lock"}


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_process_without_the_port_reads_the_same_and_removes_nothing(
    files: WorkerFiles, reader: WorkerFiles
) -> None:
    Process(files, "1-aa", {"jobs": {KEY: jobs(3)}}).crash()
    two = Process(files, "2-bb", {"jobs": {KEY: jobs(2)}})
    before = names(files)
    machine = reader.read()
    assert (done(machine), numbers(machine)) == (5, (1, 2, 1, 0))
    assert names(files) == before
    files.read()
    machine = reader.read()
    assert (done(machine), numbers(machine)) == (5, (1, 2, 1, 0))
    two.end()


def test_a_reader_begins_again_if_files_were_merged_meanwhile(
    files: WorkerFiles, reader: WorkerFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    Process(files, "1-aa", {"jobs": {KEY: jobs(3)}}).crash()
    first = [True]
    paths = WorkerFiles._paths

    def merge_first(self: WorkerFiles, suffix: str) -> list[Path]:
        if self is reader and first:
            first.clear()
            files.read()
        return list(paths(self, suffix))

    monkeypatch.setattr(WorkerFiles, "_paths", merge_first)
    assert done(reader.read()) == 3


def test_only_one_process_has_the_port(files: WorkerFiles, reader: WorkerFiles) -> None:
    assert files.take_port()
    assert not reader.take_port()
    files.leave_port()
    assert reader.take_port()
    assert not files.take_port()
    reader.leave_port()


def test_a_forked_child_holds_no_lock_of_its_parent(
    files: WorkerFiles, reader: WorkerFiles
) -> None:
    process = Process(files, "1-aa")
    (read, write), (is_ready, ready) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:  # as an actor with multiprocessing does
        os.close(write)
        os.write(ready, b"1")
        os.read(read, 1)
        os._exit(0)
    try:
        os.read(is_ready, 1)
        process.crash()
        files.leave_port()
        assert reader.take_port()
        assert numbers(reader.read()) == (0, 1, 1, 0)
    finally:
        os.close(write)
        os.waitpid(child, 0)
        for fd in (read, is_ready, ready):
            os.close(fd)
        reader.leave_port()


def test_a_process_is_not_dead_before_it_has_its_lock(
    files: WorkerFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def read_first(fd: int, how: int) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", flock)
            assert numbers(files.read()) == (0, 0, 0, 0)
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", read_first)
    process = Process(files, "1-aa")
    monkeypatch.setattr(fcntl, "flock", flock)
    assert numbers(files.read()) == (1, 1, 0, 0)
    process.end()


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"id": 1}', b'{"id":"1-aa","pid":"x"}'])
def test_files_that_cannot_be_read_are_removed_and_the_others_count(
    files: WorkerFiles, data: bytes
) -> None:
    broken = Process(files, "1-aa")
    other = Process(files, "2-bb", {"jobs": {KEY: jobs(2)}})
    (files.folder / "1-aa.json").write_bytes(data)
    assert done(files.read()) == 2
    broken.crash()
    other.crash()
    assert done(files.read()) == 2
    (files.folder / "merged.json").write_bytes(data)
    assert done(files.read()) == 0  # a new begin, as Prometheus expects of counters
    assert "1-aa.alive" not in names(files)


def test_files_of_processes_that_were_killed_while_they_wrote_are_removed(
    files: WorkerFiles,
) -> None:
    old = time.time() - 120
    for name in ("9-dd.alive.tmp", "9-dd.json.9.tmp", "9-dd.json"):
        (files.folder / name).write_bytes(b"{}")
        os.utime(files.folder / name, (old, old))
    (files.folder / "8-ee.json.8.tmp").write_bytes(b"{}")  # is being written
    files.read()
    assert names(files) == {"8-ee.json.8.tmp", "port.lock"}


def test_rows_are_limited_when_processes_of_many_versions_are_merged() -> None:
    total = {"retries": {("q", f"E{number}"): [1.0] for number in range(MAX_ROWS)}}
    add_counts(total, {"retries": {("q", "E0"): [1.0], ("q", "new"): [1.0]}})
    assert len(total["retries"]) == MAX_ROWS
    assert total["retries"]["q", "E0"] == [2.0]


def test_a_snapshot_is_read_as_it_was_written() -> None:
    counts = {"jobs": {KEY: jobs(3)}, "dropped_lines": {(): [4.0]}}
    values = {"paused": {"api": True}, "queues": ("q",), "memory_bytes": 5, "problem": "no broker"}
    one = snapshot(
        "7-ff", counts, state=ProcessState.STOPPING, stalled=31.0, breakers_open=2, **values
    )
    assert Snapshot.from_bytes(one.to_bytes()) == one
    newer = one.to_bytes().replace(b'"stopping"', b'"other"').replace(b"{", b'{"new":[1],', 1)
    assert Snapshot.from_bytes(newer).state is ProcessState.READY


def test_the_folder_is_private(tmp_path: Path) -> None:
    folder = WorkerFiles(tmp_path / "a" / "http").folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o770)
    with pytest.raises(ConfigError, match="writable by this user alone, got mode 770"):
        WorkerFiles(folder)
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(ConfigError, match="to be a folder of this user"):
        WorkerFiles(link)
    with pytest.raises(ConfigError, match="set WORKER_HTTP_DIR"):
        WorkerFiles(Path("/proc/http"))


def test_a_removed_folder_is_made_again(files: WorkerFiles) -> None:
    process = Process(files, "1-aa")
    assert process.lock.exists
    shutil.rmtree(files.folder)
    assert not process.lock.exists
    files.ensure_folder()
    assert files.take_port()
    assert names(files) == {"port.lock"}
    assert stat.S_IMODE(files.folder.stat().st_mode) == 0o700


def test_a_process_that_can_write_no_snapshot_is_seen_to_run(files: WorkerFiles) -> None:
    process = Process(files, "1-aa")
    process.write(monotonic=time.monotonic() - 100)
    process.lock.write_time()
    (live,) = files.read().live
    assert live.age < 50
    # A worker of an older version writes no time.
    (files.folder / "1-aa.alive").write_bytes(b"")
    assert files.read().live[0].age >= 100


def test_the_counts_of_ended_processes_can_be_read_on_a_full_disk(files: WorkerFiles) -> None:
    Process(files, "1-aa", {"jobs": {KEY: jobs(3)}}).end()
    before = names(files)
    blocker = files.folder / f"merged.json.{os.getpid()}.tmp"
    blocker.mkdir()  # no new file can be written in its place
    for _ in range(2):
        assert done(files.read()) == 3
    blocker.rmdir()
    assert names(files) == before
    assert done(files.read()) == 3
    assert names(files) == {"merged.json", "port.lock"}


def test_the_age_of_a_snapshot_survives_a_restart_of_the_machine() -> None:
    now = time.monotonic()
    assert 20 <= snapshot(monotonic=now - 20).age < 60
    # Of before the last start, by the wall clock.
    assert snapshot(monotonic=now + 1e6, at=time.time() - 31).age >= 31
