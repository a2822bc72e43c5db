"""The queue between the consumers of a worker and its threads, fast for short jobs.

Dramatiq's own is a :class:`queue.PriorityQueue`: each job is handed over alone, and wakes a thread.
While jobs are short, that costs more than the jobs, because the threads compete for the
interpreter. Here a thread takes several short jobs at once, and more threads are woken only while
jobs wait for anything but the interpreter.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from contextlib import suppress
from queue import Empty
from typing import Any

import dramatiq
from dramatiq.middleware import Middleware
from dramatiq.threading import Interrupt

from ..core.compute_turns import TURNS
from .job_costs import JobCosts

logger = logging.getLogger("formrelay.workers")

#: Maximum expected duration of the jobs that a thread takes at once, in seconds.
CHUNK_SECONDS = 0.002
#: Seconds after which other threads take the jobs of a thread whose job takes unexpectedly long.
STUCK_SECONDS = 0.02
#: Number of jobs after which :meth:`WorkQueue.put` looks for a thread to wake in any case: the jobs
#: of an actor may no longer be short, while the thread that would notice runs one of them.
_LOOK_EVERY = 16
#: Seconds between two looks of :meth:`WorkQueue.join`.
_JOIN_SECONDS = 0.005


class WorkQueues(Middleware):
    """Gives each worker a :class:`WorkQueue`."""

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        queue: Any = WorkQueue()  # has the methods that workers, tests and packages use
        worker.work_queue = queue

    def after_consumer_thread_boot(self, broker: dramatiq.Broker, thread: Any) -> None:
        # It looks after each message for messages with an eta, which Dramatiq's brokers keep in
        # memory. formrelay's keep them on the server.
        thread.handle_delayed_messages = lambda: None


class _Taker:
    """A thread of the worker, with the jobs that it has taken."""

    __slots__ = (
        "actor",
        "began",
        "chunk",
        "count",
        "cpu_began",
        "done",
        "is_short",
        "process_began",
        "wake",
    )

    def __init__(self) -> None:
        #: Jobs taken and not started. Other threads may take them.
        self.chunk: deque[Any] = deque()
        #: The actor of the jobs taken last, how many have started, and when the first started.
        self.actor: str | None = None
        self.count = 0
        self.began = self.cpu_began = self.process_began = 0.0
        #: Number of jobs that this thread has finished since its start.
        self.done = 0
        #: Whether its jobs were expected to be short. Protected by the lock of the queue.
        self.is_short = False
        #: Acquired unless the thread was woken and has not noticed yet.
        self.wake = threading.Lock()
        self.wake.acquire()


class WorkQueue:
    """The jobs that wait for a thread of this process, by priority. Thread-safe.

    Has the methods of :class:`queue.PriorityQueue` that Dramatiq and tests call; the items are
    Dramatiq's.

    A thread takes up to two milliseconds of short jobs at once. One of them may take long all the
    same: so while jobs wait, one idle thread looks every 20 milliseconds whether they move. If
    no thread is idle, the next thread that is free looks.

    Dramatiq raises errors in its threads: :class:`~dramatiq.middleware.TimeLimitExceeded` and
    others. If a job ends in the same moment, such an error arrives in :meth:`get`.
    """

    def __init__(self) -> None:
        self._local = threading.local()
        self._costs: dict[str, JobCosts] = {}
        self._lock = threading.Lock()
        # Protected by the lock:
        self._takers: list[_Taker] = []
        self._ready: dict[int, deque[Any]] = {}  # by priority, the lowest first
        self._put = 0
        self._taken = 0
        self._idle: list[_Taker] = []
        #: Number of threads that run short jobs.
        self._short = 0
        #: The thread that was woken and has not looked for a job yet.
        self._woken: _Taker | None = None
        self._watching: _Taker | None = None
        #: When a thread last looked for jobs behind jobs that take long.
        self._looked = 0.0

    # -- what Dramatiq calls -------------------------------------------------------

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item. Does not block."""
        with self._lock:
            self._add(item)
            self._put += 1
            # While other jobs are before it, the thread that takes the next job wakes another.
            if self._first()[0] is item or not self._put % _LOOK_EVERY:
                self._wake_next()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the next item.

        Args:
            timeout: seconds; None waits without a limit.

        Raises:
            queue.Empty: there is none, after ``timeout`` or without ``block`` at once.
        """
        if not block:
            return self.get_nowait()
        try:
            me: _Taker = self._local.taker
        except AttributeError:
            me = self._new_taker()
        try:
            try:
                item = me.chunk.popleft()
            except IndexError:
                return self._take(me, timeout)
            me.count += 1
            return item
        except Empty:
            raise
        except BaseException as error:
            with self._lock:
                self._stop_waiting(me)
                self._wake_next()
            if not isinstance(error, Interrupt):
                raise
            logger.warning(
                "an interrupt came after the end of its job; the thread continues",
                extra={"error_type": type(error).__name__},
            )
            raise Empty from None

    def get_nowait(self) -> Any:
        """Take the next item; if none waits, an item that another thread has not started yet.

        Raises:
            queue.Empty: there is none.
        """
        with self._lock:
            if self._ready:
                return self._pop()
            for taker in self._takers:
                with suppress(IndexError):
                    return taker.chunk.popleft()
        raise Empty

    def task_done(self) -> None:
        """Count an item as finished."""
        try:
            me: _Taker = self._local.taker
        except AttributeError:
            me = self._new_taker()
        me.done += 1

    @property
    def unfinished_tasks(self) -> int:
        """Number of items that wait or are being worked on."""
        with self._lock:
            return self._put - sum(taker.done for taker in self._takers)

    def join(self) -> None:
        """Wait until no item is unfinished."""
        while self.unfinished_tasks:
            time.sleep(_JOIN_SECONDS)

    def qsize(self) -> int:
        """Number of items that wait for a thread."""
        with self._lock:
            chunks = sum(len(taker.chunk) for taker in self._takers)
            return chunks + sum(map(len, self._ready.values()))

    def empty(self) -> bool:
        """Whether no item waits for a thread."""
        return not self.qsize()

    # -- take ----------------------------------------------------------------------

    def _new_taker(self) -> _Taker:
        me = self._local.taker = _Taker()
        with self._lock:
            self._takers.append(me)
        return me

    def _take(self, me: _Taker, timeout: float | None) -> Any:
        """Take a job, and more if they are short; wait until there is one for this thread."""
        self._learn(me)
        if me.is_short:
            self._give_turns()
        now = time.monotonic()
        until = math.inf if timeout is None else now + timeout
        seen = None
        while True:
            with self._lock:
                self._stop_waiting(me)
                if now - self._looked > STUCK_SECONDS / 2:
                    self._take_back_chunks(now)
                if self._ready and (seen == self._taken or self._is_wanted()):
                    item = self._take_chunk(me)
                    self._wake_next()
                    break
                if now >= until:
                    raise Empty
                seen = self._start_waiting(me, seen)
            if not self._short:
                TURNS.stop()
            wait = until - now if seen is None else min(STUCK_SECONDS, until - now)
            me.wake.acquire(timeout=min(wait, threading.TIMEOUT_MAX))
            now = time.monotonic()
        me.cpu_began, me.process_began = time.thread_time(), time.process_time()
        return item

    def _learn(self, me: _Taker) -> None:
        """Add the jobs that a thread has run to the typical durations of their actor."""
        if me.actor is None:
            return
        took = time.monotonic() - me.began
        cpu = time.thread_time() - me.cpu_began
        costs = self._costs.get(me.actor)
        if costs is None:
            costs = self._costs[me.actor] = JobCosts()
        idle = took - (time.process_time() - me.process_began)
        costs.add(took / me.count, cpu / me.count, idle, me.count)
        me.actor = None

    def _give_turns(self) -> None:
        """Let other threads compute, which would otherwise compete with the jobs."""
        if self._short == 1:
            TURNS.begin()
            TURNS.give()
        else:
            TURNS.stop()

    # -- with the lock -------------------------------------------------------------

    def _is_wanted(self) -> bool:
        """Whether one more thread is to take the next job; needs a waiting job."""
        costs = self._costs.get(_actor(self._first()[0]))
        return costs is None or not costs.is_short or self._short < costs.threads(self._short)

    def _take_chunk(self, me: _Taker) -> Any:
        level = self._first()
        item = self._pop()
        me.actor, me.count, me.began = _actor(item), 1, time.monotonic()
        costs = self._costs.get(me.actor)
        if costs is not None and costs.is_short:
            me.is_short = True
            self._short += 1
            most = min(int(CHUNK_SECONDS / costs.took), (len(level) + 1) // 2)
            while most > 0 and level and _actor(level[0]) == me.actor:
                me.chunk.append(self._pop())
                most -= 1
        self._taken += 1
        return item

    def _first(self) -> deque[Any]:
        return next(iter(self._ready.values()))

    def _pop(self) -> Any:
        priority, level = next(iter(self._ready.items()))
        item = level.popleft()
        if not level:
            del self._ready[priority]
        return item

    def _add(self, item: Any, *, first: bool = False) -> None:
        priority = _priority(item)
        level = self._ready.get(priority)
        if level is None:
            level = self._ready[priority] = deque()
            self._ready = dict(sorted(self._ready.items()))
        (level.appendleft if first else level.append)(item)

    def _wake_next(self) -> None:
        """Wake a waiting thread: for the next job, or to watch the jobs that wait."""
        if self._woken is not None:
            return  # when it has taken its job, it wakes the next
        if self._ready and self._is_wanted():
            self._woken = self._idle.pop() if self._idle else self._watching
            if self._woken is self._watching:
                self._watching = None
        elif self._idle and self._watching is None and self._has_jobs():
            self._woken = self._idle.pop()
        if self._woken is not None:
            self._woken.wake.release()

    def _start_waiting(self, me: _Taker, seen: int | None) -> int | None:
        """Let a thread wait.

        Returns:
            The number of chunks taken until now, if the thread is to watch; None otherwise.
        """
        is_quiet = seen == self._taken and not self._has_jobs()
        if self._watching is None and (self._has_jobs() or (seen is not None and not is_quiet)):
            self._watching = me
            return self._taken
        self._idle.append(me)
        return None

    def _stop_waiting(self, me: _Taker) -> None:
        if self._woken is me:
            self._woken = None
            me.wake.acquire(blocking=False)  # if it was woken after its wait had timed out
        elif self._watching is me:
            self._watching = None
        elif me in self._idle:
            self._idle.remove(me)
        self._no_longer_short(me)

    def _no_longer_short(self, taker: _Taker) -> None:
        if taker.is_short:
            taker.is_short = False
            self._short -= 1

    def _take_back_chunks(self, now: float) -> None:
        """Take back the unstarted jobs of threads whose current job takes long.

        Such a thread no longer counts as a thread with short jobs.
        """
        self._looked = now
        for taker in self._takers:
            if (taker.is_short or taker.chunk) and now - taker.began > STUCK_SECONDS:
                self._no_longer_short(taker)
                with suppress(IndexError):
                    while True:
                        self._add(taker.chunk.pop(), first=True)

    def _has_jobs(self) -> bool:
        return bool(self._ready) or any(taker.chunk for taker in self._takers)


def _priority(item: Any) -> int:
    """The priority of an item; a tuple in Dramatiq 1."""
    priority: int = item[0] if isinstance(item, tuple) else item.priority
    return priority


def _actor(item: Any) -> str:
    return message_of(item).actor_name


def message_of(item: Any) -> dramatiq.MessageProxy:
    """The message of an item; a tuple in Dramatiq 1."""
    message: dramatiq.MessageProxy = item[1] if isinstance(item, tuple) else item.message
    return message
