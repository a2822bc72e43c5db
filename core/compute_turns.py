"""Turns in which the threads of a worker use the interpreter, instead of competing for it.

While a thread waits for Python's interpreter lock, each system call of the running thread wakes it,
and mostly in vain: the lock is taken again before the woken thread runs. With jobs of 50 µs that
takes a quarter of the time, and the waiting thread may wait for a hundred jobs. So while one thread
runs short jobs, or the event loop of async actors is busy, the threads that fetch messages and
write log lines wait here. Every two milliseconds, the thread with the jobs (or the event loop) lets
them compute, and waits until they have finished.

All of it is advice, so that no error and no slow job can stop a thread: nobody waits more than ten
milliseconds longer than it wanted to.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

#: Maximum seconds that a thread waits for a turn after the time that it asked for, and that the
#: thread with the jobs waits for the end of a turn.
_LATE = 0.01
#: Seconds after which a thread that has given no turn counts as no longer running short jobs.
_BUSY_SECONDS = 0.05
#: Seconds after which a thread wants its turn back when it has let the jobs go on.
_PAUSE = 0.0003


class _Waiter:
    """One wait of a thread, and the turn that follows. Not used again: its giver may be late.

    Attributes:
        wake: acquired, unless the thread was given a turn and has not noticed yet.
        ended: acquired while the thread has a turn.
        due: when it wants a turn, monotonic seconds.
        is_ready: returns whether it wants a turn earlier.
    """

    __slots__ = ("due", "ended", "has_turn", "is_ready", "wake")

    def __init__(self) -> None:
        self.wake, self.ended = threading.Lock(), threading.Lock()
        self.wake.acquire()
        self.ended.acquire()
        self.has_turn = False
        self.due = 0.0
        self.is_ready: Callable[[], bool] | None = None


class ComputeTurns:
    """The turns of the threads of this process. Thread-safe.

    Uses no lock that a thread could keep when Dramatiq raises an error in it: all steps are single
    operations on a list, and the thread that removes a waiter from the list decides about it. So
    two threads with jobs may give turns at the same time, and one may call :meth:`stop` while the
    other goes on: then nobody waits until the next :meth:`begin`.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start without threads, in a forked process."""
        self._local = threading.local()
        self._waiting: list[_Waiter] = []
        self._busy_until = -math.inf

    # -- the thread with the jobs --------------------------------------------------

    def begin(self) -> None:
        """Note that this thread keeps the interpreter busy, and soon calls :meth:`give` again."""
        self._busy_until = time.monotonic() + _BUSY_SECONDS

    def give(self) -> None:
        """Let each thread whose time has come compute, and wait until it has finished."""
        if not self._waiting:
            return
        now = time.monotonic()
        until = now + _LATE
        for waiter in list(self._waiting):
            is_due = waiter.due <= now or (waiter.is_ready is not None and waiter.is_ready())
            if is_due and self._give(waiter):
                waiter.ended.acquire(timeout=max(0.0, until - time.monotonic()))

    def stop(self) -> None:
        """Let all threads go on, because no thread or more than one runs short jobs."""
        self._busy_until = -math.inf
        for waiter in list(self._waiting):
            self._give(waiter)

    def _give(self, waiter: _Waiter) -> bool:
        try:
            self._waiting.remove(waiter)
        except ValueError:  # it no longer waits, or another thread has given it a turn
            return False
        waiter.has_turn = True
        waiter.wake.release()
        return True

    # -- the other threads ---------------------------------------------------------

    def wait(self, seconds: float, is_ready: Callable[[], bool] | None = None) -> bool:
        """End the turn of this thread, and wait ``seconds`` for the next.

        Args:
            is_ready: if it returns True, the turn may come earlier. The thread with the jobs calls
                it.

        Returns:
            False at once if no thread runs short jobs: the caller waits as it would without turns.
        """
        self.end()
        now = time.monotonic()
        if now > self._busy_until:
            return False
        me = self._local.me = _Waiter()
        me.due, me.is_ready = now + seconds, is_ready
        self._waiting.append(me)
        if not me.wake.acquire(timeout=seconds + _LATE):
            with suppress(ValueError):  # given a turn in this moment
                self._waiting.remove(me)
        return True

    def pause(self) -> None:
        """Let the jobs go on for a moment, if this thread has a turn."""
        if self._has_turn():
            self.wait(_PAUSE)

    def end(self) -> None:
        """End the turn of this thread, if it has one: it is about to wait for something else."""
        if self._has_turn():
            me: _Waiter = self._local.me
            me.has_turn = False
            me.ended.release()

    def _has_turn(self) -> bool:
        try:
            has_turn: bool = self._local.me.has_turn
        except AttributeError:  # its first turn is still to come
            return False
        return has_turn


#: The turns of this process, whose threads share one interpreter.
TURNS = ComputeTurns()
os.register_at_fork(after_in_child=TURNS.forget)
