"""BackoffTimer: a back-off that counts its failures."""

from __future__ import annotations

from datetime import timedelta

from formrelay.core.backoff import BackoffTimer
from formrelay.core.retry import Exponential
from tests.support.clock import ManualClock

BACKOFF = Exponential(base=timedelta(seconds=1), cap=timedelta(seconds=5))


def test_each_failure_doubles_the_wait_until_a_reset() -> None:
    clock = ManualClock()
    timer = BackoffTimer(clock)
    assert timer.remaining == timedelta(0)
    waits = [timer.fail(BACKOFF).total_seconds() for _ in range(4)]
    assert waits == [1, 2, 4, 5]
    assert timer.due_at == clock.monotonic() + 5
    clock.now += 3
    assert timer.remaining == timedelta(seconds=2)
    clock.now += 3
    assert timer.remaining == timedelta(0)
    timer.reset()
    assert timer.fail(BACKOFF) == timedelta(seconds=1)


def test_at_least_lengthens_the_wait_up_to_the_cap() -> None:
    timer = BackoffTimer(ManualClock())
    assert timer.fail(BACKOFF, at_least=timedelta(seconds=3)) == timedelta(seconds=3)
    assert timer.fail(BACKOFF, at_least=timedelta(hours=1)) == BACKOFF.cap
