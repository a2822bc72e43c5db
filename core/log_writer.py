"""Writes log lines in a thread of its own, so that a job does not wait for its line."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from weakref import WeakSet

from .compute_turns import TURNS

#: Maximum size of the buffer, in bytes. Further lines are dropped and counted.
BUFFER_BYTES = 8 * 1024 * 1024
#: Maximum size of a record of several lines, in bytes; the line about dropped lines is added.
_RECORD_BYTES = 64 * 1024
#: Seconds between two writes, so that many lines are one record.
_PAUSE = 0.02
#: Seconds that :meth:`LogWriter.flush` waits for the lines to be written.
_FLUSH_TIMEOUT = 2.0


class LogWriter:
    """A bounded buffer of lines, and the thread that writes them in large records.

    Writing to a pipe takes longer than making a line, and the main process of ``dramatiq`` reads
    and writes each record again.

    While nobody reads the pipe and the buffer is full, lines are dropped, so that jobs go on. A
    killed process loses the lines of its last 30 ms.

    Thread-safe; signal handlers may write lines too.

    Args:
        send: writes whole lines to their destination. It may block.
        dropped_line: makes the line that says how many lines were dropped.
        buffer_bytes: maximum size of the buffer.
    """

    def __init__(
        self,
        send: Callable[[bytes], None],
        dropped_line: Callable[[int], bytes],
        *,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        self._send = send
        self._dropped_line = dropped_line
        self._most = buffer_bytes
        self._is_closed = False
        self.forget()
        _writers.add(self)

    def forget(self) -> None:
        """Start with an empty buffer and no thread, in a forked process."""
        # Both re-entrant, since a signal handler may log while its thread logs.
        self._lock = threading.RLock()
        self._sending = threading.RLock()
        #: Lines that are not written yet. Threads append to the end, in one operation; the thread
        #: that holds ``_sending`` removes lines from the start.
        self._buffer = bytearray()
        #: What :meth:`flush` waits for: whether all lines before the call are written.
        self._answers: deque[SimpleQueue[bool]] = deque()
        self._is_flushing = False
        self._is_stuck = False
        # Changed with the lock held, and read without it:
        self._dropped = 0
        #: Whether the next line has to wake or start the thread.
        self._is_idle = True
        self._wake: SimpleQueue[None] | None = None

    def write(self, line: bytes) -> None:
        """Add one line, which ends with a line break, to the buffer. Does not block.

        After :meth:`close`, it is written at once.
        """
        buffer = self._buffer
        if len(buffer) + len(line) > self._most:
            self._drop()
            return
        # Copied: the memory of the line is free for the next line while it is still in the
        # processor's cache.
        buffer += line
        if self._is_idle:
            self._wake_up()

    def flush(self) -> bool:
        """Wait until the lines of the buffer are written.

        Returns:
            False if they could not be written: nobody reads them, or their pipe is closed.
        """
        wake = self._wake
        if wake is None or self._is_closed:
            return self._flush_here()
        # Only the log thread writes. Dramatiq raises errors in the threads of jobs at any moment:
        # there, one could leave half a record in the pipe, or keep a lock.
        answer: SimpleQueue[bool] = SimpleQueue()
        self._answers.append(answer)
        wake.put(None)
        TURNS.give()
        try:
            # Waits once only, not for each line, while nobody reads.
            return answer.get(timeout=0 if self._is_stuck else _FLUSH_TIMEOUT)
        except Empty:
            self._is_stuck = True
            return False

    def close(self) -> None:
        """Write the lines of the buffer, and from now on each line at once, in its thread."""
        with self._lock:
            self._is_closed = self._is_idle = True
        self._flush_here()

    def _flush_here(self) -> bool:
        if not self._sending.acquire(timeout=0 if self._is_stuck else _FLUSH_TIMEOUT):
            self._is_stuck = True
            return False
        try:
            if self._is_flushing:  # in a signal handler of the thread that writes
                return False
            self._is_flushing = True
            try:
                return self._write_records()
            finally:
                self._is_flushing = False
        finally:
            self._sending.release()

    def _wake_up(self) -> None:
        with self._lock:
            if self._is_idle and not self._is_closed:
                if self._wake is None:
                    self._start()
                else:
                    self._wake.put(None)
                # Last: if an error is raised in this thread before, the next line wakes it.
                self._is_idle = self._is_closed
        if self._is_closed:
            self._flush_here()

    def _start(self) -> None:
        # Before the start: a signal handler that logs in between would start a second thread.
        self._wake = SimpleQueue()
        thread = threading.Thread(
            target=self._run, args=(self._wake,), name="formrelay-log", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends, or the machine has no more threads
            self._is_closed = True
        except BaseException:
            self._wake = None
            raise

    # -- in the log thread ---------------------------------------------------------------

    def _run(self, wake: SimpleQueue[None]) -> None:
        while not self._is_closed:
            with suppress(Empty):
                while True:
                    wake.get_nowait()
            answers = [self._answers.popleft() for _ in range(len(self._answers))]
            with self._sending:
                is_written = self._write_records()
            for answer in answers:
                answer.put(is_written)
            if not self._answers:
                self._pause(wake)

    def _pause(self, wake: SimpleQueue[None]) -> None:
        # Woken by a timer, this thread would compete for the interpreter with short jobs.
        if not TURNS.wait(_PAUSE, lambda: bool(self._answers)):
            with suppress(Empty):
                wake.get(timeout=_PAUSE)
        with self._lock:
            # Set before the buffer is read: a line that is added meanwhile is seen here, or wakes
            # this thread.
            self._is_idle = True
            has_work = bool(self._buffer or self._dropped or self._answers)
            self._is_idle = is_idle = self._is_closed or not has_work
        if is_idle:
            TURNS.end()
            wake.get()

    # -- with ``_sending`` ---------------------------------------------------------------

    def _write_records(self) -> bool:
        buffer = self._buffer
        while buffer or self._dropped:
            dropped = self._dropped
            size = _record_size(buffer)
            try:
                # Copied twice: with a memoryview, other threads could not append meanwhile.
                record = bytes(buffer[:size])
                self._send(record + self._dropped_line(dropped) if dropped else record)
                is_written = True
            except Exception:  # its pipe is closed: the process ends
                is_written = False
            del buffer[:size]
            with self._lock:
                self._dropped -= dropped
            if not is_written:
                return False
        self._is_stuck = False
        return True

    def _drop(self) -> None:
        with self._lock:
            self._dropped += 1
        _count_dropped()


def _record_size(buffer: bytearray) -> int:
    """Size of the next record: the whole lines that fit, or the first line if it is longer."""
    if len(buffer) <= _RECORD_BYTES:
        return len(buffer)
    end = buffer.rfind(b"\n", 0, _RECORD_BYTES)
    if end < 0:
        end = buffer.find(b"\n", _RECORD_BYTES)
    return end + 1 or len(buffer)


_dropped = 0


def _count_dropped() -> None:
    global _dropped
    _dropped += 1


def dropped_lines() -> int:
    """Number of lines that all writers of this process have dropped, for metrics."""
    return _dropped


_writers: WeakSet[LogWriter] = WeakSet()


def _before_fork() -> None:
    # Otherwise both processes would write the same lines.
    for writer in list(_writers):
        writer.flush()


def _in_child() -> None:
    global _dropped
    _dropped = 0
    for writer in list(_writers):
        writer.forget()


os.register_at_fork(before=_before_fork, after_in_child=_in_child)
