"""A worker process writes its counts and its state, and serves the page."""

from __future__ import annotations

import os
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from formrelay.config import WorkerHttpSettings
from formrelay.core import exit_reason
from formrelay.core.errors import SinkUnavailable
from formrelay.core.throttle import Throttle
from formrelay.ops.metrics.files import WorkerFiles
from formrelay.ops.metrics.process import WorkerHttp
from formrelay.ops.metrics.snapshot import ProcessState
from formrelay.testing import MemoryBroker
from tests.support.harness import Harness
from tests.support.servers.base import free_port
from tests.support.waiting import wait_until


@pytest.fixture
def settings(tmp_path: Path) -> WorkerHttpSettings:
    return WorkerHttpSettings(port=free_port(), dir=tmp_path / "http")


@pytest.fixture
def harness(settings: WorkerHttpSettings) -> Iterator[Harness]:
    harness = Harness(MemoryBroker(), "q")
    harness.actor(lambda: None, actor_name="act", throttle=Throttle("api"))
    harness.broker.add_middleware(WorkerHttp(settings, "redis"))
    yield harness
    harness.stop()


@pytest.fixture
def files(settings: WorkerHttpSettings) -> WorkerFiles:
    """The files as another process reads them."""
    return WorkerFiles(settings.folder)


def done(files: WorkerFiles) -> float:
    return files.read().counts["jobs"]["q", "act"][0]


def work(harness: Harness, number: int) -> None:
    for _ in range(number):
        harness.broker.get_actor("act").send()
    wait_until(harness.is_empty)


def served(settings: WorkerHttpSettings) -> str:
    try:
        url = f"http://127.0.0.1:{settings.port}/metrics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def _middleware(harness: Harness) -> WorkerHttp:
    (found,) = (each for each in harness.broker.middleware if isinstance(each, WorkerHttp))
    return found


def test_the_page_is_served_while_the_worker_runs(
    harness: Harness, settings: WorkerHttpSettings
) -> None:
    harness.start()
    page = wait_until(lambda: served(settings))
    assert 'formrelay_jobs_total{actor="act",outcome="done",queue="q"} 0.0' in page
    assert 'formrelay_sink_paused{sink="api"} 0.0' in page
    harness.broker.get_actor("act").options["throttle"].note(SinkUnavailable("down"))
    _middleware(harness)._write_again()  # as every five seconds
    assert 'formrelay_sink_paused{sink="api"} 1.0' in served(settings)
    wait_until(lambda: 'queue_backlog_jobs{queue="q"} 0.0' in served(settings))
    harness.stop()
    assert served(settings) == ""


def test_the_last_counts_of_a_worker_are_kept_and_count_once(
    harness: Harness, files: WorkerFiles
) -> None:
    for number in (1, 2):  # a worker may be started again in its process
        harness.start()
        (live,) = files.read().live
        assert (live.state, live.queues, live.is_ready) == (ProcessState.READY, ("q",), True)
        assert live.memory_bytes
        work(harness, 3)
        harness.stop()
        machine = files.read()
        assert (machine.live, machine.starts, machine.crashes) == ((), number, 0)
        assert done(files) == 3 * number


def test_a_recycled_process_is_counted_as_recycled(
    harness: Harness, files: WorkerFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.start()
    monkeypatch.setattr(exit_reason, "_reason", "recycled")
    harness.stop()
    machine = files.read()
    assert (machine.recycles, machine.crashes, machine.starts) == (1, 0, 1)


def test_a_worker_on_a_full_disk_does_not_look_as_if_it_hung(
    harness: Harness, files: WorkerFiles, caplog: pytest.LogCaptureFixture
) -> None:
    harness.start()
    (before,) = files.read().live
    # No new file can be written in its place.
    (files.folder / f"{before.id}.json.{os.getpid()}.tmp").mkdir()
    _middleware(harness)._write_again()
    assert "cannot write the counts" in caplog.text
    (live,) = files.read().live
    assert live.at == before.at
    assert live.monotonic > before.monotonic


def test_jobs_run_on_if_the_folder_cannot_be_written_to(
    harness: Harness, files: WorkerFiles, caplog: pytest.LogCaptureFixture
) -> None:
    files.folder.rmdir()
    files.folder.write_text("")  # a full disk, a file system that became read-only
    middleware = _middleware(harness)
    harness.start()
    middleware._write_again()
    work(harness, 2)
    lines = [each for each in caplog.records if "cannot write the counts" in each.message]
    assert len(lines) == 1  # once an outage
    files.folder.unlink()
    middleware._write_again()  # the folder is made again
    assert done(files) == 2
    shutil.rmtree(files.folder)  # by a program that removes old files
    middleware._write_again()
    assert done(files) == 2
