"""Writes log lines in a thread of its own, so that a job does not wait for its line."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from weakref import WeakSet

from .compute_turns import TURNS

#: Maximum size of the buffer, in bytes. Further lines are dropped and counted.
BUFFER_BYTES = 8 * 1024 * 1024
#: Size from which lines are written as several records, in bytes.
_RECORD_BYTES = 64 * 1024
#: The same in other threads than the log thread. A pipe of multiprocessing gets a record of up to
#: 16 KiB in one system call: an error that Dramatiq raises in the thread leaves no half of it.
_SMALL_RECORD_BYTES = 15 * 1024
#: Seconds between two writes, so that many lines are one record.
_PAUSE = 0.02
#: Seconds that :meth:`LogWriter.flush` waits while another thread writes.
_FLUSH_TIMEOUT = 2.0


class LogWriter:
    """A bounded buffer of lines, and the thread that writes them in large records.

    Writing to a pipe takes longer than making a line, and the main process of ``dramatiq`` reads
    and writes each record again.

    While nobody reads the pipe and the buffer is full, lines are dropped, so that jobs go on. A
    killed process loses the lines of its last 30 ms. An error that Dramatiq raises in a thread
    during :meth:`flush` may write lines twice.

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
        # Re-entrant, since a signal handler may log while its thread logs.
        self._lock = threading.RLock()
        self._sending = threading.Lock()
        #: The thread that has ``_sending``.
        self._sender: int | None = None
        self._sends = 0
        self._buffer: deque[bytes] = deque()
        #: Lines that were taken from the buffer and are not written yet.
        self._taken: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._is_stuck = False
        self._is_idle = False
        self._wake: SimpleQueue[None] | None = None

    def write(self, line: bytes) -> None:
        """Add one line, which ends with a line break, to the buffer. Does not block.

        After :meth:`close`, it is written at once.
        """
        size = len(line)
        with self._lock:
            if self._size + size > self._most:
                self._drop()
                return
            self._buffer.append(line)
            self._size += size
            if self._wake is None and not self._is_closed:
                self._start()
            if self._is_idle and self._wake is not None:
                # In this order: Dramatiq may raise an error in this thread between the two.
                self._wake.put(None)
                self._is_idle = False
        if self._is_closed:
            self.flush()

    def flush(self) -> bool:
        """Write the lines of the buffer before returning.

        Returns:
            False if they could not be written: nobody reads them, or their pipe is closed.
        """
        # Waits once only, not for each line, while nobody reads.
        return self._flush(0 if self._is_stuck else _FLUSH_TIMEOUT, _SMALL_RECORD_BYTES)

    def close(self) -> None:
        """Write the lines of the buffer, and from now on each line at once."""
        self._is_closed = True
        self.flush()

    def _flush(self, timeout: float, record_bytes: int) -> bool:
        if self._sender == threading.get_ident():  # in a signal handler of the thread that writes
            return False
        if not self._sending.acquire(timeout=timeout):
            self._is_stuck = True
            return False
        try:
            self._sends += 1
            self._sender = threading.get_ident()
            return self._write_records(record_bytes)
        finally:
            self._sender = None
            self._sending.release()

    def _write_records(self, record_bytes: int) -> bool:
        while True:
            record, dropped = self._next_record(record_bytes)
            if not record and not dropped:
                self._is_stuck = False
                return True
            try:
                self._send(record + self._dropped_line(dropped) if dropped else record)
            except Exception:  # its pipe is closed: the process ends
                is_written = False
            else:
                is_written = True
            # Only now: after an error that Dramatiq raises in this thread, they are written again.
            self._taken = []
            if dropped:
                with self._lock:
                    self._dropped -= dropped
            if not is_written:
                return False
            self._is_stuck = False

    def _start(self) -> None:
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

    def _run(self, wake: SimpleQueue[None]) -> None:
        while True:
            sends = self._sends
            is_written = self._flush(_FLUSH_TIMEOUT, _RECORD_BYTES)
            if not is_written and self._sender is None and self._sends == sends:
                # Nobody has sent all the time: Dramatiq raised an error in a thread that had just
                # acquired the lock, or was about to release it.
                with suppress(RuntimeError):  # released at this moment
                    self._sending.release()
            # Woken by a timer, this thread would compete for the interpreter with short jobs.
            if not TURNS.wait(_PAUSE):
                time.sleep(_PAUSE)
            with self._lock:
                self._is_idle = is_idle = not (self._buffer or self._taken or self._dropped)
            if is_idle:
                TURNS.end()
                wake.get()

    def _next_record(self, record_bytes: int) -> tuple[bytes, int]:
        """Take lines from the buffer, unless lines are left by a call that an error ended.

        Returns:
            The lines, and how many lines were dropped.
        """
        with self._lock:
            size = 0
            if not self._taken:
                while self._buffer and size < record_bytes:
                    line = self._buffer[0]
                    self._taken.append(line)  # before popleft: an error may be raised between
                    self._buffer.popleft()
                    size += len(line)
            # 0 also after an error that was raised in here before.
            self._size = self._size - size if self._buffer else 0
            return b"".join(self._taken), self._dropped

    def _drop(self) -> None:
        with self._lock:
            self._dropped += 1
        _count_dropped()


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
