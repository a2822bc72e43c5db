"""Middleware that was added after the boot of the process is told of it once."""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.brokers.stub import StubBroker

from formrelay.ops.worker.late_middleware import LateMiddleware


class Counting(dramatiq.Middleware):
    """Counts the boots that it is told of."""

    def __init__(self, *, fails: bool = False) -> None:
        self.boots, self._fails = 0, fails

    def after_process_boot(self, broker: dramatiq.Broker) -> None:
        self.boots += 1
        if self._fails:
            raise RuntimeError("no port is free")


def booted(*late: Counting) -> tuple[StubBroker, Counting]:
    """A broker with middleware that is added before and after the boot."""
    early = Counting()
    broker = StubBroker(middleware=[early, LateMiddleware()])
    broker.emit_after("process_boot")
    for middleware in late:
        broker.add_middleware(middleware)
    return broker, early


def test_each_middleware_is_told_once_even_if_a_worker_starts_again() -> None:
    late = Counting()
    broker, early = booted(late)
    worker: Any = None
    broker.emit_before("worker_boot", worker)
    broker.emit_before("worker_boot", worker)
    assert (early.boots, late.boots) == (1, 1)


def test_a_hook_that_raises_does_not_keep_the_others_from_being_told() -> None:
    failing, late = Counting(fails=True), Counting()
    broker, _ = booted(failing, late)
    worker: Any = None
    broker.emit_before("worker_boot", worker)
    assert (failing.boots, late.boots) == (1, 1)
