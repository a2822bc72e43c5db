"""Concurrent callers share one call, and no caller waits longer than the timeout."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from formrelay.brokers import BrokerUnavailable
from formrelay.djangoapp.shared_call import SharedCall
from tests.support.waiting import wait_until


def test_concurrent_callers_share_one_call_and_a_later_caller_starts_another() -> None:
    asked: list[int] = []
    answer = Event()

    def function() -> int:
        asked.append(len(asked))
        answer.wait(20)
        return len(asked)

    call = SharedCall(function, timeout=20)
    with ThreadPoolExecutor(8) as crowd:
        answers = [crowd.submit(call) for _ in range(8)]
        wait_until(lambda: asked)
        answer.set()
        assert all(1 <= one.result() <= len(asked) for one in answers)
    assert len(asked) < 8  # one, unless a caller comes after the answer
    assert call() == len(asked)


def test_callers_of_a_call_that_hangs_time_out_and_start_no_second_call() -> None:
    asked: list[int] = []
    answer = Event()

    def function() -> str:
        asked.append(1)
        answer.wait(20)
        return "late"

    call = SharedCall(function, timeout=0.2)
    begun = time.monotonic()
    for _ in range(3):
        with pytest.raises(BrokerUnavailable, match=r"to answer within 0\.2 s"):
            call()
    assert time.monotonic() - begun < 15
    assert asked == [1]
    answer.set()
    wait_until(lambda: call() == "late")


def test_an_error_of_the_call_reaches_the_caller() -> None:
    def function() -> None:
        raise BrokerUnavailable("gone")

    with pytest.raises(BrokerUnavailable, match="gone"):
        SharedCall(function, timeout=5)()
