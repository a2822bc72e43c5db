"""A worker collects its garbage, however few jobs it runs."""

from __future__ import annotations

import gc
import weakref
from datetime import timedelta

import pytest

from formrelay.ops.worker import tuning
from formrelay.testing import MemoryBroker
from tests.support.harness import Harness
from tests.support.waiting import wait_until


class Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_a_worker_collects_garbage_although_few_objects_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuning, "_COLLECT_EVERY", timedelta(milliseconds=10))
    harness = Harness(MemoryBroker(), "default")
    harness.actor(lambda: None)
    harness.broker.add_middleware(tuning.GarbageCollection())
    before = gc.get_threshold()
    gc.disable()
    try:
        garbage = weakref.ref(Cycle())
        assert garbage() is not None
        harness.start()
        wait_until(lambda: garbage() is None)
    finally:
        gc.enable()
        gc.set_threshold(*before)
        harness.stop()
