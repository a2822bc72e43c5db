"""Backends that stand for Django's own in the tests of ``scripts/task_conformance.py``."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import replace
from typing import Any, ClassVar

import dramatiq

from formrelay.brokers import get_broker
from formrelay.djangoapp.tasks import FormrelayBackend

#: Seconds that a signal's receivers take at most, after a result is stored.
_RECEIVERS = 0.05


class Waiting(FormrelayBackend):
    """For Django's DummyBackend: no worker runs, and the results are known."""

    results: ClassVar[list[Any]] = []

    def clear(self) -> None:
        """Forget everything, in Redis too."""
        self.results.clear()
        get_broker().state.client.flushdb()

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        result = super().enqueue(task, args, kwargs)
        self.results.append(result)
        return deepcopy(result)


class Running(Waiting):
    """For Django's ImmediateBackend: waits until a worker in threads has run the only attempt."""

    worker: ClassVar[dramatiq.Worker | None] = None

    def __init__(self, alias: str, params: Any) -> None:
        super().__init__(alias, params)
        actor = {**self.parameters.actor, "max_retries": 0}
        self.parameters = replace(self.parameters, actor=actor)

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        result = super().enqueue(task, args, kwargs)
        if Running.worker is None:
            Running.worker = dramatiq.Worker(get_broker(), worker_threads=2, worker_timeout=100)
            Running.worker.start()
        deadline = time.monotonic() + 10
        while not result.is_finished and time.monotonic() < deadline:
            time.sleep(0.01)
            result = self.get_result(result.id)
        time.sleep(_RECEIVERS)
        return result
