"""The event loop lets other threads compute in turn, but only while it computes itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import dramatiq
import pytest

from formrelay.brokers import loop_turns
from formrelay.brokers.loop_turns import LoopTurns
from formrelay.core import compute_turns
from formrelay.core.compute_turns import TURNS
from formrelay.testing import MemoryBroker

from ..support.waiting import wait_until

#: Seconds that no turn takes.
LONG = 30.0


@pytest.fixture(autouse=True)
def _no_turns_afterwards() -> Iterator[None]:
    yield
    TURNS.stop()


def compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_a_computing_loop_makes_other_threads_wait_for_its_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("_LATE", "_BUSY_SECONDS"):  # a thread may start or wake late
        monkeypatch.setattr(compute_turns, name, LONG)
    # On a busy machine, this process gets a part of the processor.
    monkeypatch.setattr(loop_turns, "_BUSY_SHARE", 0.01)
    loop = LoopTurns()
    loop.give_if_busy()
    compute(0.01)
    loop.give_if_busy()

    def turn() -> bool:
        try:
            return TURNS.wait(0)
        finally:
            TURNS.end()

    with ThreadPoolExecutor(1) as threads:
        had_turn = threads.submit(turn)
        wait_until(lambda: TURNS._waiting or had_turn.done())
        assert not had_turn.done()
        compute(0.01)
        loop.give_if_busy()
        assert had_turn.result(LONG) is True


def test_an_idle_loop_lets_the_other_threads_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute_turns, "_BUSY_SECONDS", LONG)
    loop = LoopTurns()
    loop.give_if_busy()
    TURNS.begin()
    loop._last -= 1  # as after a second in which the thread has not computed
    loop.give_if_busy()
    assert TURNS.wait(LONG) is False


def test_the_event_loop_looks_after_each_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(LoopTurns, "give_if_busy", lambda self: looks.append(1))
    broker = MemoryBroker()

    @dramatiq.actor(broker=broker, in_flight=2)
    async def work() -> None:
        pass

    for _ in range(3):
        work.send()
    worker = dramatiq.Worker(broker, worker_timeout=10)
    worker.start()
    wait_until(lambda: len(looks) == 3)
    worker.stop()
