"""One thread that waits for everything: calls, sockets, times; and what actors may await."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable

import pytest

from formrelay.core.later import Later, Steps, run
from formrelay.core.loop import Loop, get_loop
from formrelay.core.process import current_pid


def in_loop(loop: Loop, function: Callable[[], object]) -> object:
    """What a function returns in the loop's thread."""
    found: list[object] = []
    done = threading.Event()
    loop.call(lambda: (found.append(function()), done.set()))
    assert done.wait(60)
    return found[0]


def test_calls_are_made_in_their_order_by_one_thread() -> None:
    loop, seen = Loop(), []
    done = threading.Event()
    for number in range(1000):
        loop.call(lambda number=number: seen.append((number, threading.get_ident())))
    loop.call(done.set)
    assert done.wait(60)
    assert [number for number, _ in seen] == list(range(1000))
    assert len({thread for _, thread in seen}) == 1


def test_a_call_wakes_a_loop_that_sleeps() -> None:
    loop = Loop()
    in_loop(loop, int)
    threading.Event().wait(0.05)
    took = []
    for _ in range(3):  # the best of three: a machine may be busy
        started = time.monotonic()
        in_loop(loop, int)
        took.append(time.monotonic() - started)
    assert min(took) < 0.5  # it would have slept for a second


def test_what_a_call_raises_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    loop.call(lambda: 1 / 0)
    assert in_loop(loop, lambda: "goes on") == "goes on"
    assert "a call of the loop failed" in caplog.text


def test_a_socket_is_watched_until_it_is_forgotten() -> None:
    loop, seen = Loop(), []
    here, there = socket.socketpair()
    with here, there:
        arrived = threading.Event()

        def tell(descriptor: int, event: int) -> None:
            seen.append((descriptor, event, here.recv(100)))
            arrived.set()

        in_loop(loop, lambda: loop.watch(here.fileno(), select.POLLIN, tell))
        there.send(b"a")
        assert arrived.wait(60)
        in_loop(loop, lambda: loop.forget(here.fileno()))
        there.send(b"b")
        in_loop(loop, int)
        in_loop(loop, int)
    assert seen == [(seen[0][0], select.POLLIN, b"a")]


def test_a_part_has_its_turn_when_it_wants_it() -> None:
    loop = Loop()
    turns: list[float] = []
    done = threading.Event()

    class EveryTenMilliseconds:
        def turn(self) -> float | None:
            turns.append(time.monotonic())
            if len(turns) == 10:
                done.set()
            return None if len(turns) >= 10 else time.monotonic() + 0.01

    loop.call(lambda: loop.add(EveryTenMilliseconds()))
    assert done.wait(60)
    assert turns[9] - turns[0] < 0.9  # not once a second


def test_a_forked_process_has_a_loop_of_its_own() -> None:
    ours = get_loop()
    child = os.fork()
    if child == 0:
        try:
            fine = get_loop() is not ours and current_pid() == os.getpid()
            fine = fine and in_loop(get_loop(), lambda: 1) == 1
            os._exit(0 if fine else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert get_loop() is ours


# -- what actors await -----------------------------------------------------------------------


class Answer(Later[int]):
    """There as soon as it is asked for, from another thread."""

    def __init__(self, value: int | Exception) -> None:
        self._value = value

    def start(self, resume: Callable[[], object]) -> None:
        threading.Thread(target=resume).start()

    def result(self) -> int:
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


def test_a_coroutine_is_run_to_its_end() -> None:
    async def add() -> int:
        return await Answer(1) + await Answer(2)

    assert run(add()) == 3


def test_what_was_awaited_raises_where_it_was_awaited() -> None:
    async def fail() -> str:
        try:
            await Answer(ValueError("no"))
        except ValueError as error:
            return str(error)
        return "yes"

    assert run(fail()) == "no"


def test_a_step_starts_nothing_by_itself() -> None:
    started = []

    class Noting(Answer):
        def start(self, resume: Callable[[], object]) -> None:
            started.append(self)
            resume()

    async def wait() -> None:
        await Noting(1)

    steps = Steps(wait())
    waits_for = steps.advance()
    assert isinstance(waits_for, Noting)
    assert started == []
    steps.finish(waits_for)
    assert started == [waits_for]


# -- what raises each time -------------------------------------------------------------------


class Broken:
    """A part whose turn raises, until it is mended."""

    def __init__(self) -> None:
        self.turns = 0
        self.is_mended = threading.Event()
        self.worked = threading.Event()

    def turn(self) -> float | None:
        self.turns += 1
        if not self.is_mended.is_set():
            raise ValueError("each time")
        self.worked.set()
        return None


def test_a_part_that_raises_each_time_is_left_alone_and_holds_up_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop, broken = Loop(), Broken()
    served: list[int] = []

    class Fine:
        def turn(self) -> float | None:
            served.append(1)
            return None

    loop.call(lambda: (loop.add(broken), loop.add(Fine())))
    used = time.process_time()
    ends = time.monotonic() + 0.75
    while time.monotonic() < ends:
        in_loop(loop, int)  # others are served all the while
        threading.Event().wait(0.01)
    assert time.process_time() - used < 0.4
    assert 2 <= broken.turns <= 4  # after 0.1, 0.2 and 0.4 s
    assert len(served) > 20
    lines = [record for record in caplog.records if "after a back-off" in record.message]
    assert len([one for one in lines if one.__dict__["part"] == "Broken.turn"]) == broken.turns
    broken.is_mended.set()
    assert broken.worked.wait(60)


def test_a_part_that_is_due_at_once_is_served_at_once_after_another_has_failed() -> None:
    loop, done = Loop(), threading.Event()
    turns: list[float] = []

    class Eager:
        def turn(self) -> float | None:
            turns.append(time.monotonic())
            if len(turns) == 50:
                done.set()
            return None if len(turns) >= 50 else time.monotonic() - 1

    started, broken = time.monotonic(), Broken()
    loop.call(lambda: (loop.add(broken), loop.add(Eager())))
    assert done.wait(60)
    assert turns[-1] - started < 0.9
    broken.is_mended.set()


def test_a_socket_whose_function_raises_is_left_alone_and_heard_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop()
    calls: list[int] = []
    heard = threading.Event()
    here, there = socket.socketpair()

    def tell(descriptor: int, event: int) -> None:
        calls.append(event)
        # As libcurl does from within: what it watches is said again.
        loop.watch(descriptor, select.POLLIN, tell)
        if len(calls) < 3:
            raise ValueError("cannot be read")
        here.recv(100)
        heard.set()

    with here, there:
        in_loop(loop, lambda: loop.watch(here.fileno(), select.POLLIN, tell))
        there.send(b"a")
        assert in_loop(loop, lambda: "others are served") == "others are served"
        assert heard.wait(60)
        assert len(calls) == 3
        lines = [one for one in caplog.records if "after a back-off" in one.message]
        assert len([one for one in lines if one.__dict__["part"].endswith(".tell")]) == 2
        in_loop(loop, lambda: loop.forget(here.fileno()))


def test_a_socket_is_forgotten_while_it_is_left_alone() -> None:
    loop, failed = Loop(), threading.Event()
    here, there = socket.socketpair()

    def tell(_descriptor: int, _event: int) -> None:
        failed.set()
        raise ValueError

    with here, there:
        in_loop(loop, lambda: loop.watch(here.fileno(), select.POLLIN, tell))
        there.send(b"a")
        assert failed.wait(60)
        in_loop(loop, int)
        in_loop(loop, lambda: loop.forget(here.fileno()))
        failed.clear()
        assert not failed.wait(0.3)
