"""The parts of the task backend that need no server."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar

import django
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection, connections
from hypothesis import given
from hypothesis import strategies as st

from formrelay.brokers.event_loop import EventLoopThread

if not settings.configured:
    FILE = f"{tempfile.mkdtemp()}/parts.sqlite3"
    DATABASE = {"ENGINE": "django.db.backends.sqlite3", "NAME": FILE}
    settings.configure(DATABASES={"default": DATABASE}, USE_TZ=True)
    django.setup()

from formrelay.djangoapp.task_backend.coroutine import with_own_thread
from formrelay.djangoapp.task_backend.message import broker_priority

PRIORITIES = st.integers(-100, 100)


@given(PRIORITIES, PRIORITIES)
def test_a_higher_priority_is_never_a_lower_level(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert 0 <= broker_priority(low) <= broker_priority(high) <= 9


def test_every_sign_of_a_priority_has_its_levels() -> None:
    assert [broker_priority(each) for each in (-100, -1, 0, 1, 100)] == [0, 3, 4, 5, 9]
    assert {broker_priority(each) for each in range(-100, 101)} == set(range(10))


@pytest.fixture
def loop() -> Iterator[EventLoopThread]:
    thread = EventLoopThread()
    yield thread
    thread.stop()


def test_a_coroutine_runs_in_the_context_of_its_thread(loop: EventLoopThread) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="none")

    async def read(more: str) -> str:
        await asyncio.sleep(0)
        return variable.get() + more

    variable.set("of the attempt")
    assert loop.run(with_own_thread(read, ", read")) == "of the attempt, read"


def test_an_error_of_a_coroutine_is_raised_in_the_thread(loop: EventLoopThread) -> None:
    async def fail() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        loop.run(with_own_thread(fail))


def test_a_coroutine_has_a_database_connection_of_its_own_that_is_closed(
    loop: EventLoopThread,
) -> None:
    def connect() -> tuple[int, object]:
        connection.ensure_connection()
        return threading.get_ident(), connections["default"]

    async def work() -> list[tuple[int, object]]:
        return [await sync_to_async(connect)(), await sync_to_async(connect)()]

    (one, first), (same, second) = loop.run(with_own_thread(work))
    assert one == same != threading.get_ident()
    assert first is second
    assert first.connection is None


def test_an_interrupt_of_the_thread_cancels_the_coroutine_and_waits_for_its_end(
    loop: EventLoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ctypes

    class Interrupt(Exception):
        pass

    begun, log = threading.Event(), []

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            log.append("ended")

    def interrupt(thread_id: int) -> None:
        begun.wait()
        target = ctypes.c_ulong(thread_id)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(target, ctypes.py_object(Interrupt))

    threading.Thread(target=interrupt, args=(threading.get_ident(),)).start()
    started = time.monotonic()
    with pytest.raises(Interrupt):
        loop.run(with_own_thread(wait))
    assert log == ["ended"]
    assert time.monotonic() - started < 10
