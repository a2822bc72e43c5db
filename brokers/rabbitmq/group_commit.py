"""Lets threads that publish to a queue at the same time share one write and its confirms.

A thread sends its message at once while few threads publish. Messages that come while four writes
are on their way wait; one of their threads then sends them all in the next write. With a connection
for each of many threads, each message would cost its own system calls and thread switches, and
twice as much time of the server.

Dramatiq raises errors in its threads at any moment, also between two steps of the code below. So a
thread that leads hands nothing over that others depend on: that it is over is a single store in a
``finally``, and threads that wait look for that from time to time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from weakref import WeakSet

from .errors import NoAnswer, PublishersBlocked
from .publish_call import PublishCall

#: Maximum body of a message that shares a write, in bytes.
MAX_SHARED_BYTES = 16_384
#: Maximum number of messages in a write.
_MAX_CALLS = 100
#: Maximum number of writes to a queue at the same time. With one, half of the threads would wait
#: while the messages of the other half are on their way. With many, each message costs a write and
#: more CPU time of RabbitMQ: on two cores, 16 threads send a third more with 4 than with 8.
_MAX_WRITES = 4
#: Seconds between two looks of a waiting thread, should nobody wake it.
_LOOK_SECONDS = 0.05
#: Maximum seconds for which a thread waits for the thread that sends its message. The time-outs of
#: connecting and of one answer are usually much shorter.
_WAIT_SECONDS = 60.0


class SharedFailure(Exception):
    """A write with messages of several calls failed; send each message alone."""


class _Waiter:
    """A thread with its call.

    Attributes:
        wake: gets an item when the thread should look at once.
        leader: the thread that sends the call; None while it waits for the next write.
        is_told: whether the leader has set ``error``.
        error: why the call was not sent, or may not have been.
        since: monotonic seconds at which it began to wait.
        is_over: whether the thread has left; a leader that is over sends nothing any more.
    """

    __slots__ = ("call", "error", "is_over", "is_told", "leader", "since", "wake")

    def __init__(self, call: PublishCall) -> None:
        self.call = call
        self.wake: SimpleQueue[None] = SimpleQueue()
        self.since = time.monotonic()
        self.leader: _Waiter | None = None
        self.is_told = self.is_over = False
        self.error: Exception | None = None


class GroupCommit:
    """Groups the calls of this process's threads that publish one message. Thread-safe."""

    def __init__(self) -> None:
        self.forget()
        _group_commits.add(self)

    def forget(self) -> None:
        """Start without threads, in a forked process."""
        self._local = threading.local()
        self._lock = threading.Lock()
        # Protected by the lock:
        self._waiting: list[_Waiter] = []
        self._leaders: list[_Waiter] = []

    def send(self, call: PublishCall, write: Callable[..., None]) -> None:
        """Publish the message of a call, perhaps together with the messages of other threads.

        Args:
            write: publishes the messages of several calls on one connection.

        Raises:
            SharedFailure: the call was sent together with others; any of them may be the cause.
            BrokerUnavailable, BrokerRefused: raised by ``write``; the call was alone in its write,
                or the server does not answer.
        """
        if getattr(self._local, "is_inside", False):
            write(call)  # from a signal handler or a finalizer: it must not wait for its thread
            return
        me = _Waiter(call)
        try:
            self._local.is_inside = True
            self._send(me, write)
        finally:
            me.is_over = True
            self._local.is_inside = False
        if me.error is not None:
            raise me.error

    def _send(self, me: _Waiter, write: Callable[..., None]) -> None:
        try:
            with self._lock:
                self._waiting.append(me)
            self._wait(me, write)
        finally:
            with self._lock:
                self._waiting = [each for each in self._waiting if each is not me]
                if me in self._leaders:
                    me.is_over = True
                    # Only to save time: a waiting thread looks by itself too.
                    for each in self._untaken()[:1]:
                        each.wake.put(None)

    def _wait(self, me: _Waiter, write: Callable[..., None]) -> None:
        """Lead, or wait until another thread has sent the call."""
        until = me.since + _WAIT_SECONDS
        while True:
            with self._lock:
                if me.is_told:
                    return
                if me.leader is not None and me.leader.is_over:  # it was interrupted
                    me.error = SharedFailure() if me.call.waiting else None
                    return
                self._leaders = [each for each in self._leaders if not each.is_over]
                if me.leader is None and len(self._leaders) < _MAX_WRITES:
                    me.leader = me
                    self._leaders.append(me)
                    break
                if time.monotonic() > until:
                    # If another thread has taken the call, it may still send it.
                    me.call.is_sent |= me.leader is not None
                    raise NoAnswer(
                        "expected RabbitMQ to confirm the write of another thread within "
                        f"{_WAIT_SECONDS:g} s, got no result; check that RabbitMQ answers"
                    )
            try:
                me.wake.get(timeout=_LOOK_SECONDS)
            except Empty:
                continue
        self._lead(me, write)

    def _lead(self, me: _Waiter, write: Callable[..., None]) -> None:
        group, began = self._take(me), time.monotonic()
        try:
            write(*[each.call for each in group])
        except (NoAnswer, PublishersBlocked) as problem:
            # Sending each message alone would take another time-out. So would the messages of
            # threads that have waited for most of this one, while no write has ended.
            middle = (began + time.monotonic()) / 2
            with self._lock:
                group += [each for each in self._untaken() if each.since < middle]
                for each in group:
                    each.leader = me
            self._tell(group, problem)
        except Exception as problem:
            self._tell(group, problem if len(group) == 1 else SharedFailure())
        else:
            self._tell(group, None)

    def _take(self, me: _Waiter) -> list[_Waiter]:
        with self._lock:
            # A thread that was interrupted may have left without removing itself.
            self._waiting = [each for each in self._waiting if not each.is_over]
            group = [me, *self._untaken()[: _MAX_CALLS - 1]]
            for each in group:
                each.leader = me
        return group

    def _untaken(self) -> list[_Waiter]:
        return [
            each
            for each in self._waiting
            if each.leader is None and not each.is_told and not each.is_over
        ]

    def _tell(self, group: list[_Waiter], error: Exception | None) -> None:
        with self._lock:
            for each in group:
                # A message may be confirmed before the write fails.
                each.error = error if each.call.waiting else None
                each.is_told = True
                each.wake.put(None)


_group_commits: WeakSet[GroupCommit] = WeakSet()


def _in_child() -> None:
    for each in list(_group_commits):
        each.forget()


os.register_at_fork(after_in_child=_in_child)
