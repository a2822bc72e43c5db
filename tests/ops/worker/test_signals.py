"""SIGTERM that comes twice, and SIGTERM that comes before the workers have started."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import CodeType, FrameType, SimpleNamespace

import pytest
from dramatiq import cli

from formrelay.core.exit_reason import set_exit_reason
from formrelay.ops.worker import signals
from formrelay.ops.worker.signals import StopSignals, stopped_before_start


@pytest.mark.parametrize(
    ("recycled", "pauses", "calls"),
    [
        (False, [0.0], 1),
        (False, [0.0, 0.1], 1),  # a copy of the first
        (False, [0.0, 0.1, 0.1], 2),
        (False, [0.0, 4.0], 1),  # passed on late, on a busy machine
        (False, [0.0, 6.0], 2),
        (True, [], 1),
        (True, [0.0], 1),  # the first signal
        (True, [0.0, 0.1], 1),
        (True, [0.0, 6.0], 2),
    ],
)
def test_only_a_repeated_signal_leaves_jobs_unfinished(
    recycled: bool, pauses: list[float], calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, told = [100.0], []
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(signals, "time", clock)
    stop = StopSignals(lambda number, _: told.append(number))
    if recycled:
        stop.end_worker()
    for pause in pauses:
        now[0] += pause
        stop.handle(signal.SIGTERM, None)
    assert len(told) == calls
    assert stop.were_received is bool(pauses)
    set_exit_reason(None)


def dramatiqs_handler(told: list[str]) -> Callable[[int, FrameType | None], None]:
    """A handler with the names of Dramatiq's."""
    running = True

    def termhandler(number: int, frame: FrameType | None) -> None:
        nonlocal running
        told.append("stop" if running else "kill")
        running = False

    return termhandler


def test_a_signal_during_the_import_of_the_program_was_the_first() -> None:
    told: list[str] = []
    stop = dramatiqs_handler(told)
    assert not StopSignals(stop).were_received
    stop(signal.SIGTERM, None)
    installed = StopSignals(stop)
    assert installed.were_received
    installed.handle(signal.SIGTERM, None)  # passed on by the main process
    assert told == ["stop"]
    installed.handle(signal.SIGTERM, None)
    assert told == ["stop", "kill"]
    set_exit_reason(None)


def test_dramatiqs_handler_has_these_names() -> None:
    (handler,) = [
        each
        for each in cli.worker_process.__code__.co_consts
        if isinstance(each, CodeType) and each.co_name == "termhandler"
    ]
    assert "running" in handler.co_freevars


def test_sigterm_before_the_workers_have_started_ends_the_command_with_0() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, stopped_before_start():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_while_the_program_is_replaced_stays_pending() -> None:
    before = signal.getsignal(signal.SIGTERM)
    received: list[int] = []
    try:
        with stopped_before_start():
            pass
        signal.raise_signal(signal.SIGTERM)
        # The new program, when it has its handlers:
        signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
        assert received == []
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        assert received == [signal.SIGTERM]
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        signal.signal(signal.SIGTERM, before)
