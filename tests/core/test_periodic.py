"""Periodic: a thread that calls a function at an interval."""

from __future__ import annotations

import threading
from datetime import timedelta

from formrelay.core.periodic import Periodic
from tests.support.waiting import wait_until


def test_the_function_is_called_between_start_and_stop_repeatedly() -> None:
    calls: list[int] = []
    periodic = Periodic("test", timedelta(milliseconds=1), lambda: calls.append(1))
    assert not periodic.stop()
    for _ in range(2):
        calls.clear()
        assert periodic.start()
        assert not periodic.start()
        wait_until(lambda: calls)
        assert periodic.stop()
        assert not periodic.runs
        wait_until(lambda: not [t for t in threading.enumerate() if t.name == "formrelay-test"])


def test_an_error_does_not_end_the_calls() -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise ValueError

    periodic = Periodic("test", timedelta(milliseconds=1), fail)
    periodic.start()
    wait_until(lambda: len(calls) > 2)
    periodic.stop()


def test_the_first_call_may_come_at_once() -> None:
    called = threading.Event()
    periodic = Periodic("test", timedelta(hours=1), called.set, at_once=True)
    periodic.start()
    assert called.wait(10)
    periodic.stop()
