"""Writes log lines in a thread of its own, so that a job does not wait for its line."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from weakref import WeakSet

from .compute_turns import TURNS

#: Maximum size of the buffer, in bytes. Further lines are dropped and counted.
BUFFER_BYTES = 8 * 1024 * 1024
#: Maximum size of a record of several lines, in bytes.
_RECORD_BYTES = 64 * 1024
#: Seconds between two writes, so that many lines are one record.
_PAUSE = 0.02
#: Seconds that :meth:`LogWriter.flush` waits while another thread writes.
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
        # Re-entrant, since a signal handler may log while its thread logs.
        self._lock = threading.RLock()
        self._sending = threading.RLock()
        #: The lines that are not written yet. Threads add to its end, each with one operation, and
        #: the thread that has ``_sending`` removes from its start.
        self._buffer = bytearray()
        self._is_flushing = False
        self._is_stuck = False
        # Protected by the lock:
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
        # Copied, so that the memory of the next line is that of this one, in the processor's cache.
        buffer += line
        if self._is_idle:
            self._wake_up()

    def flush(self) -> bool:
        """Write the lines of the buffer before returning.

        Returns:
            False if they could not be written: nobody reads them, or their pipe is closed.
        """
        # Waits once only, not for each line, while nobody reads.
        if not self._sending.acquire(timeout=0 if self._is_stuck else _FLUSH_TIMEOUT):
            self._is_stuck = True
            return False
        try:
            if self._is_flushing:  # in a signal handler of the thread that writes
                return False
            self._is_flushing = True
            try:
                is_written = self._write_records()
            finally:
                self._is_flushing = False
            self._is_stuck = False
            return is_written
        finally:
            self._sending.release()

    def close(self) -> None:
        """Write the lines of the buffer, and from now on each line at once."""
        with self._lock:
            self._is_closed = self._is_idle = True
        self.flush()

    def _wake_up(self) -> None:
        with self._lock:
            if self._is_idle and not self._is_closed:
                if self._wake is None:
                    self._start()
                else:
                    self._wake.put(None)
                # At the end: Dramatiq may raise an error in this thread before.
                self._is_idle = self._is_closed
        if self._is_closed:
            self.flush()

    def _start(self) -> None:
        self._wake = SimpleQueue()
        thread = threading.Thread(
            target=self._run, args=(self._wake,), name="formrelay-log", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends, or the machine has no more threads
            self._is_closed = True

    def _run(self, wake: SimpleQueue[None]) -> None:
        while True:
            self.flush()
            # Woken by a timer, this thread would compete for the interpreter with short jobs.
            if not TURNS.wait(_PAUSE):
                time.sleep(_PAUSE)
            with self._lock:
                # In this order: lines that come in between are seen here, or wake this thread.
                self._is_idle = True
                self._is_idle = is_idle = self._is_closed or not self._buffer
            if is_idle:
                TURNS.end()
                wake.get()

    def _write_records(self) -> bool:
        buffer = self._buffer
        while buffer or self._dropped:
            dropped = self._dropped
            size = _record_size(buffer)
            record = bytes(buffer[:size])
            if dropped:
                record += self._dropped_line(dropped)
            try:
                self._send(record)
                is_written = True
            except (OSError, ValueError):  # closed: the process ends
                is_written = False
            # Not before: an error that Dramatiq raises in this thread may have ended the call.
            del buffer[:size]
            with self._lock:
                self._dropped -= dropped
            if not is_written:
                return False
        return True

    def _drop(self) -> None:
        with self._lock:
            self._dropped += 1
        _count_dropped()


def _record_size(buffer: bytearray) -> int:
    """The number of bytes of the first lines, or of one long line."""
    if len(buffer) <= _RECORD_BYTES:
        return len(buffer)
    end = buffer.rfind(b"\n", 0, _RECORD_BYTES)
    return 1 + (end if end >= 0 else buffer.find(b"\n"))


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
