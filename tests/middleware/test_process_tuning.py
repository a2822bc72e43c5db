"""A worker process is tuned however it is started, and collects its garbage."""

from __future__ import annotations

import gc
import linecache
import re
import time
import weakref
from datetime import timedelta
from pathlib import Path

import pytest

from formrelay.middleware import process_tuning
from formrelay.testing import MemoryBroker
from tests.support.command import clean_environment, start_python
from tests.support.harness import Harness
from tests.support.waiting import wait_until

#: A module of one's own that imports neither formrelay's worker nor its actors.
ALONE = """
import gc, os, pathlib, time
import dramatiq
from formrelay.brokers import get_broker

dramatiq.set_broker(get_broker())

@dramatiq.actor(queue_name="chores")
def tell():
    deadline = time.monotonic() + 30
    while gc.get_threshold()[0] == 700 and time.monotonic() < deadline:
        time.sleep(0.01)  # the job may start before the worker has
    pathlib.Path(os.environ["TELL"]).write_text(f"{gc.get_threshold()} {gc.get_freeze_count() > 0}")

if __name__ == "__main__":
    tell.send()
"""


class Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_a_worker_collects_garbage_although_few_objects_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process_tuning, "_COLLECT_EVERY", timedelta(milliseconds=10))
    monkeypatch.setattr(process_tuning, "is_worker_process", lambda: True)
    monkeypatch.setattr(process_tuning, "tune_garbage_collector", lambda: None)
    monkeypatch.setattr(process_tuning, "limit_malloc_arenas", lambda: None)
    harness = Harness(MemoryBroker(), "default")
    harness.actor(lambda: None)
    gc.disable()
    try:
        garbage = weakref.ref(Cycle())
        assert garbage() is not None
        harness.start()
        wait_until(lambda: garbage() is None)
    finally:
        gc.enable()
        harness.stop()


def test_the_source_files_of_tracebacks_are_forgotten() -> None:
    assert linecache.getlines(__file__)
    process_tuning.ProcessTuning().collect()
    assert __file__ not in linecache.cache


def test_patterns_are_forgotten() -> None:
    pattern = f"boundary-{id(object())}"
    before = re.compile(pattern)
    assert re.compile(pattern) is before
    process_tuning.ProcessTuning().collect()
    assert re.compile(pattern) is not before


def test_full_collections_are_rare_if_they_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now, full_seconds = 1_000.0, 0.01
    collected: list[int] = []

    def collect(generation: int = 2) -> None:
        nonlocal now
        collected.append(generation)
        now += full_seconds if generation == 2 else 0.0

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(gc, "collect", collect)
    tuning = process_tuning.ProcessTuning()
    for _ in range(3):
        tuning.collect()
        now += 60
    assert collected == [2, 2, 2]
    full_seconds = 0.3  # many objects of the user: five minutes until the next
    collected.clear()
    for _ in range(8):
        tuning.collect()
        now += 60
    assert collected == [2, 1, 1, 1, 1, 2, 1, 1]


def test_a_program_that_runs_a_worker_keeps_its_settings() -> None:
    before = gc.get_threshold(), gc.get_freeze_count()
    harness = Harness(MemoryBroker(), "default")
    harness.actor(lambda: None)
    harness.start()
    harness.stop()
    assert (gc.get_threshold(), gc.get_freeze_count()) == before


@pytest.mark.process
@pytest.mark.redis
def test_a_module_of_ones_own_alone_is_tuned(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(ALONE)
    told = tmp_path / "told"
    env = clean_environment(REDIS_URL=redis_url, PYTHONPATH=str(tmp_path), TELL=str(told))
    log = tmp_path / "log"
    sender = start_python("alone.py", cwd=tmp_path, env=env, log=log)
    assert sender.wait(timeout=60) == 0, log.read_text()
    worker = start_python("-m", "dramatiq", "-p1", "alone", cwd=tmp_path, env=env, log=log)
    try:
        wait_until(lambda: told.exists() and told.read_text())
    finally:
        worker.terminate()
        worker.wait(timeout=60)
    assert told.read_text() == "(300000, 20, 50) True"
