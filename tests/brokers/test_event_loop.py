"""EventLoopThread: calls, errors, forks and its end."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest
from dramatiq.middleware import TimeLimitExceeded
from dramatiq.threading import raise_thread_exception

from formrelay.brokers.event_loop import EventLoopThread


@pytest.fixture
def thread() -> Iterator[EventLoopThread]:
    thread = EventLoopThread()
    yield thread
    thread.stop()


async def ident() -> int:
    return threading.get_ident()


def test_calls_run_in_order_in_one_thread(thread: EventLoopThread) -> None:
    seen: list[tuple[int, int]] = []
    for number in range(1000):
        thread.call(lambda number=number: seen.append((number, threading.get_ident())))
    loops = thread.run(ident())
    assert seen == [(number, loops) for number in range(1000)]
    assert loops != threading.get_ident()


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), KeyboardInterrupt()])
def test_errors_of_calls_and_tasks_do_not_end_the_loop(
    thread: EventLoopThread, error: BaseException
) -> None:
    async def fail() -> None:
        raise error

    def call() -> None:
        raise error

    async def begin() -> None:
        asyncio.get_running_loop().create_task(fail())

    before = thread.run(ident())
    thread.call(call)
    asyncio.run_coroutine_threadsafe(begin(), thread.loop)
    assert asyncio.run_coroutine_threadsafe(ident(), thread.loop).result(30) == before


@pytest.mark.parametrize("error", [SystemExit("text"), KeyboardInterrupt("text")])
def test_an_exit_of_a_run_reaches_its_thread_and_not_the_loop(
    thread: EventLoopThread, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise error

    before = thread.run(ident())
    with pytest.raises(type(error), match="text"):
        thread.run(fail())
    assert thread.run(ident()) == before
    assert caplog.records == []


def test_an_exit_of_another_task_is_one_line_without_its_text(
    thread: EventLoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise SystemExit("SECRET")

    async def begin() -> None:
        with pytest.raises(SystemExit):
            await asyncio.create_task(fail())

    thread.run(begin())
    (line,) = caplog.records
    assert (line.levelname, vars(line)["error"], line.exc_info) == ("ERROR", "SystemExit", None)
    assert "SECRET" not in caplog.text


def test_stop_cancels_tasks_and_ends_the_thread_and_a_call_restarts_it(
    thread: EventLoopThread,
) -> None:
    ended: list[str] = []
    begun = threading.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)  # an actor may need time to clean up
            ended.append("in order")

    thread.call(lambda: asyncio.ensure_future(wait()))
    assert begun.wait(30)
    loop = thread.loop
    running = {one for one in threading.enumerate() if one.name == "formrelay-loop"}
    before = thread.run(ident())
    thread.stop()
    assert ended == ["in order"]
    assert loop.is_closed()
    assert before not in {one.ident for one in running if one.is_alive()}
    assert thread.loop is not loop
    assert thread.run(ident())


def test_a_forked_process_has_its_own_loop(thread: EventLoopThread) -> None:
    ours = thread.loop
    child = os.fork()
    if child == 0:
        try:
            fine = thread.loop is not ours and thread.run(ident()) != 0
            thread.stop()
            os._exit(0 if fine else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert thread.loop is ours
    assert thread.run(ident())


def test_the_loop_is_uvloops_if_installed(
    thread: EventLoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("uvloop")
    made = asyncio.new_event_loop()
    module.__dict__["new_event_loop"] = lambda: made
    monkeypatch.setitem(sys.modules, "uvloop", module)
    assert thread.loop is made


def test_the_loop_recognizes_its_own_thread(thread: EventLoopThread) -> None:
    async def ask() -> bool:
        return thread.is_current()

    assert thread.run(ask())
    assert not thread.is_current()


def test_each_interrupt_of_a_waiting_thread_cancels_and_none_ends_the_wait(
    thread: EventLoopThread,
) -> None:
    log: list[str] = []
    begun, cancelled = threading.Event(), threading.Event()
    waiting = threading.get_ident()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            log.append("goes on")
            cancelled.set()
        try:
            await asyncio.sleep(60)
        finally:
            log.append("ended")

    def interrupt() -> None:
        for event in (begun, cancelled):
            event.wait()
            raise_thread_exception(waiting, TimeLimitExceeded)  # type: ignore[no-untyped-call]

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(TimeLimitExceeded):
        thread.run(work())
    interrupting.join()
    assert log == ["goes on", "ended"]
