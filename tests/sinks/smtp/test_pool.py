"""The pool: how many connections, for how long, and that none is ever lost."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import linecache
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from types import FrameType
from typing import Any

import pytest

from formrelay.core.errors import NotNow, SinkTransient, SinkUnavailable
from formrelay.sinks.smtp.pool import Pool
from formrelay.sinks.smtp.replies import UnknownOutcome
from tests.sinks.smtp.accounts import ANN, MESSAGE, SENDER, account, timeouts
from tests.sinks.smtp.scripted import Scripted, close, scripted, stall, then_close
from tests.support.request_counts import counting
from tests.support.threads import at_once
from tests.support.waiting import wait_until

FILES = tuple(os.path.join("sinks", "smtp", name) for name in ("pool.py", "session.py"))


def send(pool: Pool) -> str:
    (reply,) = pool.send(SENDER, [ANN], MESSAGE)
    return reply.kind


def lose(pool: Pool) -> None:
    with pytest.raises(UnknownOutcome):
        send(pool)


def test_threads_share_the_maximum_number_of_connections() -> None:
    server = Scripted()
    with scripted(server):
        pool = Pool(account(server.port, max_connections=2))
        at_once(lambda _: [send(pool) for _ in range(10)], range(6))
        pool.close()
    assert len(server.messages) == 60
    assert len(server.talks) == 2
    assert server.most_open == 2


def test_a_connection_is_closed_after_its_maximum_number_of_messages() -> None:
    server = Scripted()
    with scripted(server):
        pool = Pool(account(server.port, max_messages=3))
        with counting("smtp") as found:
            for _ in range(7):
                send(pool)
        pool.close()
    assert found == {"ok": 7}
    counts = [talk.commands.count(".") for talk in server.talks]
    assert counts == [3, 3, 1]
    assert all(talk.commands[-1] == "QUIT" for talk in server.talks)


def test_the_connection_used_last_is_used_next() -> None:
    server = Scripted()
    both = threading.Barrier(2)
    with scripted(server):
        pool = Pool(account(server.port, max_connections=2))

        def meet(_: int) -> None:
            pool.send(SENDER, [ANN], MESSAGE, before_dot=lambda _: both.wait(10) and None)

        at_once(meet, range(2))
        for _ in range(5):
            send(pool)
        assert sorted(talk.commands.count(".") for talk in server.talks) == [1, 6]
        pool.close()


def test_a_thread_that_waits_too_long_defers_its_job() -> None:
    server = Scripted({"dot": [stall]})
    with scripted(server):
        pool = Pool(account(server.port, max_wait=timedelta(seconds=0.2)))
        busy = threading.Thread(target=lose, args=(pool,))
        busy.start()
        wait_until(lambda: "." in server.commands)
        with pytest.raises(NotNow, match="all 1 SMTP connections were busy"):
            send(pool)
        server.talks[0].socket.shutdown(2)
        busy.join(30)
        assert send(pool) == "accepted"
        pool.close()


def test_idle_connections_are_closed_after_a_time() -> None:
    server = Scripted()
    with scripted(server):
        pool = Pool(account(server.port, idle=timedelta(seconds=0.3)))
        send(pool)
        assert server.open_now == 1
        wait_until(lambda: not server.open_now)
        assert server.commands[-1] == "QUIT"
        assert send(pool) == "accepted"
        pool.close()


def test_a_connection_that_was_idle_is_tested_before_use() -> None:
    server = Scripted({"NOOP": [None, b"500 no\r\n"]})
    with scripted(server):
        pool = Pool(account(server.port, check_after=timedelta(microseconds=1)))
        for _ in range(3):
            assert send(pool) == "accepted"
        pool.close()
    assert [talk.commands.count(".") for talk in server.talks] == [2, 1]


@pytest.mark.parametrize("notice", [b"", b"421 4.4.2 idle for too long\r\n", b"250 what\r\n"])
def test_a_connection_that_the_server_closed_is_not_used(notice: bytes) -> None:
    server = Scripted()
    with scripted(server):
        pool = Pool(account(server.port))
        send(pool)
        server.talks[0].socket.sendall(notice)
        server.talks[0].socket.shutdown(2)
        assert send(pool) == "accepted"
        pool.close()
    assert len(server.talks) == 2


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
def test_a_used_connection_that_breaks_before_the_dot_is_replaced_once(step: str) -> None:
    # SMTP2GO closes a connection after some 2,500 messages without a word.
    server = Scripted({step: [None, close]})
    with scripted(server):
        pool = Pool(account(server.port))
        assert send(pool) == "accepted"
        assert send(pool) == "accepted"
        pool.close()
    assert len(server.messages) == len(server.talks) == 2


def test_close_ends_idle_connections_now_and_others_when_they_are_given_back() -> None:
    server = Scripted()
    with scripted(server):
        pool = Pool(account(server.port, max_connections=2))
        send(pool)
        pool.send(SENDER, [ANN], MESSAGE, before_dot=lambda _: pool.close())
        wait_until(lambda: not server.open_now)
        with pytest.raises(SinkUnavailable, match="closed"):
            send(pool)
    assert all(talk.commands[-1] == "QUIT" for talk in server.talks)


@pytest.mark.process
def test_a_forked_process_opens_connections_of_its_own() -> None:
    server = Scripted()
    with scripted(server):
        pool = Pool(account(server.port))
        send(pool)
        open_before = count_files()
        child = os.fork()
        if not child:
            status = 1
            try:
                is_sent = send(pool) == "accepted"
                pool.close()
                # A copy of the parent's connection would keep it open after the parent's end.
                status = 0 if is_sent and count_files() == open_before - 1 else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert send(pool) == "accepted"
        pool.close()
    first, second = server.talks
    # The child has said nothing on its parent's connection.
    assert first.commands.count(".") == 2
    assert second.commands.count(".") == 1


def count_files() -> int:
    return len(os.listdir("/proc/self/fd"))


class Stopped(BaseException):
    """Stands for Dramatiq's TimeLimitExceeded and Shutdown, which are raised in the same way."""


def raise_in(thread: threading.Thread) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Stopped)
    )


@pytest.fixture
def no_finalizers() -> Iterator[None]:
    """No garbage collection, whose finalizers would swallow an exception that is raised in them."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_finalizers")
def test_an_exception_raised_in_a_thread_leaks_no_connection() -> None:
    server = Scripted()
    pauses = random.Random(7)
    stopped = 0
    with scripted(server):
        pool = Pool(account(server.port, max_connections=1, timeouts=timeouts(10)))
        assert send(pool) == "accepted"  # starts the thread of the pool

        def work() -> None:
            nonlocal stopped
            try:
                while True:
                    send(pool)
            except Stopped:
                stopped += 1

        for _ in range(300):
            thread = threading.Thread(target=work)
            thread.start()
            time.sleep(pauses.random() * 0.004)
            raise_in(thread)
            thread.join(30)
            assert not thread.is_alive()
        assert stopped == 300
        assert send(pool) == "accepted"
        wait_until(lambda: server.open_now == 1)
        pool.close()
        wait_until(lambda: not server.open_now)


class Interrupter:
    """Raises an exception at the n-th line that a thread runs in the pool and its sessions.

    As Dramatiq does it, but at every place in turn and not only where a test happens to hit.
    """

    def __init__(self, at: int) -> None:
        self.rest = at

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.endswith(FILES):
            return None
        # CPython raises such an exception only after a call, at the start of a function and at the
        # end of a loop's body, so neither on the way into a "try" nor between the last line of a
        # "with" and its end. A trace function would raise there too.
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event == "line" and not line.startswith(("with ", "try:", "finally:")):
            self.rest -= 1
            if not self.rest:
                raise Stopped
        return self


@pytest.mark.parametrize("max_messages", [1, 100])
def test_an_exception_at_any_line_leaks_no_connection(max_messages: int) -> None:
    server = Scripted()
    with scripted(server):
        pool = Pool(account(server.port, max_messages=max_messages, max_wait=timedelta(seconds=1)))
        for at in range(1, 5_000):
            interrupter = Interrupter(at)
            sys.settrace(interrupter)
            try:
                pool.send(SENDER, [ANN], MESSAGE)
            except Stopped:
                pass
            finally:
                sys.settrace(None)
            assert send(pool) == "accepted", f"after an exception at line {at}"
            if at % 3 == 0:  # the next one begins without a connection
                server.answers["MAIL"] = [close]
                with contextlib.suppress(SinkTransient):
                    send(pool)
            if interrupter.rest > 0:
                break
        assert at > 80
        wait_until(lambda: server.open_now <= 1)
        pool.close()
        wait_until(lambda: not server.open_now)


def test_an_exception_reaches_a_thread_that_waits_for_the_server() -> None:
    # Dramatiq's exceptions cannot end a system call; a wait for the dot may take ten minutes.
    server = Scripted({"dot": [stall]})
    caught: list[BaseException] = []
    with scripted(server):
        pool = Pool(account(server.port, timeouts=timeouts(300)))

        def work() -> None:
            try:
                send(pool)
            except Stopped as error:
                caught.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: "." in server.commands)
        raise_in(thread)
        thread.join(30)
        assert len(caught) == 1
        assert send(pool) == "accepted"
        pool.close()


def test_a_421_after_others_were_accepted_is_not_tried_again() -> None:
    server = Scripted(
        {"MAIL": [None, then_close(b"421 4.7.0 slow down\r\n")]},
        {"EHLO": b"250-here\r\n250 LIMITS RCPTMAX=1\r\n"},
    )
    with scripted(server):
        pool = Pool(account(server.port))
        ann, ben = pool.send(SENDER, [ANN, "ben@there.example"], MESSAGE)
        pool.close()
    assert (ann.kind, ben.kind, ben.code) == ("accepted", "deferred", 421)
    assert len(server.talks) == 1
