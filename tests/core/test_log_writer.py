"""Log lines are written in large records, in order; jobs never wait for a reader."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from formrelay.core.log_handler import LineHandler, only_handler
from formrelay.core.log_writer import LogWriter, dropped_lines
from tests.support.waiting import wait_until


class Reader:
    """Gets what a writer sends, and reads nothing while a test says so."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.reads = threading.Event()
        self.reads.set()
        self.called = threading.Event()

    def __call__(self, record: bytes) -> None:
        self.called.set()
        assert self.reads.wait(60)
        self.records.append(record)

    def lines(self) -> list[str]:
        return b"".join(self.records).decode().splitlines()


def make_writer(reader: Reader, **options: int) -> LogWriter:
    return LogWriter(reader, lambda count: f"dropped {count}\n".encode(), **options)


def test_lines_of_many_threads_are_written_once_and_in_order_in_fewer_records() -> None:
    reader = Reader()
    writer = make_writer(reader)

    def write(name: int) -> None:
        for number in range(2_000):
            writer.write(f"{name} {number}\n".encode())

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: len(reader.lines()) == 8_000)
    for name in range(4):
        mine = [line for line in reader.lines() if line.startswith(f"{name} ")]
        assert mine == [f"{name} {number}" for number in range(2_000)]
    assert len(reader.records) < 4_000
    assert all(record.endswith(b"\n") for record in reader.records)


def test_a_line_after_a_pause_is_written_too() -> None:
    reader = Reader()
    writer = make_writer(reader)
    for number in range(3):
        writer.write(b"line\n")
        wait_until(lambda number=number: len(reader.lines()) == number + 1)
        wait_until(lambda: writer._is_idle)


def test_lines_without_a_reader_are_dropped_counted_and_reported() -> None:
    reader = Reader()
    writer = make_writer(reader, buffer_bytes=1_000)
    reader.reads.clear()
    writer.write(b"first\n")
    wait_until(reader.called.is_set)
    before = dropped_lines()
    for _ in range(150):
        writer.write(b"123456789\n")
    assert dropped_lines() == before + 50
    # Waits for the reader once, not each time: that would be 200 s.
    assert [writer.flush() for _ in range(100)] == [False] * 100
    reader.reads.set()
    wait_until(lambda: "dropped 50" in reader.lines())
    assert reader.lines() == ["first", *["123456789"] * 100, "dropped 50"]
    writer.write(b"last\n")
    assert writer.flush()
    assert reader.lines()[-1] == "last"


class RaisedHere(BaseException):
    """Like Dramatiq's interrupts, which are raised between any two bytecodes."""


def interrupt_next_write(writer: LogWriter) -> None:
    send, raises = writer._send, [RaisedHere()]

    def interrupted(record: bytes) -> None:
        if raises:
            raise raises.pop()
        send(record)

    writer._send = interrupted


@contextmanager
def without_log_thread(writer: LogWriter) -> Iterator[None]:
    """The log thread is idle, and no line wakes it."""
    writer.write(b"0\n")
    assert writer.flush()
    wait_until(lambda: writer._is_idle)
    writer._is_idle = False
    yield
    writer._is_idle = True


def test_lines_are_kept_when_an_error_is_raised_in_the_thread_that_writes_them() -> None:
    reader = Reader()
    writer = make_writer(reader)
    with without_log_thread(writer):
        for number in range(1, 4):
            writer.write(f"{number}\n".encode())
        interrupt_next_write(writer)
        with pytest.raises(RaisedHere):
            writer.flush()
        assert reader.lines() == ["0"]
        assert writer.flush()
    assert reader.lines() == ["0", "1", "2", "3"]


def test_a_lock_that_an_interrupted_thread_kept_is_released() -> None:
    reader = Reader()
    writer = make_writer(reader)
    # As a thread leaves it in which an error is raised right after the call.
    writer._sending.acquire()
    writer.write(b"line\n")
    wait_until(lambda: reader.lines() == ["line"])
    writer.write(b"error\n")
    assert writer.flush()
    assert reader.lines() == ["line", "error"]


def test_the_line_about_dropped_lines_is_kept_when_an_error_ends_the_write() -> None:
    reader = Reader()
    writer = make_writer(reader, buffer_bytes=10)
    with without_log_thread(writer):
        writer.write(b"fits\n")
        writer.write(b"does not fit\n")
        interrupt_next_write(writer)
        with pytest.raises(RaisedHere):
            writer.flush()
        assert writer.flush()
    assert reader.lines() == ["0", "fits", "dropped 1"]


def test_any_error_of_the_pipe_or_of_the_line_about_dropped_lines_harms_no_later_line() -> None:
    reader = Reader()
    failures = [ZeroDivisionError(), OSError("closed")]

    def send(record: bytes) -> None:
        if failures:
            raise failures.pop()
        reader(record)

    def dropped_line(count: int) -> bytes:
        raise RuntimeError("no line")

    writer = LogWriter(send, dropped_line, buffer_bytes=100)
    for left in (1, 0):
        writer.write(b"lost\n")
        wait_until(lambda left=left: len(failures) == left)
    writer.write(b"x" * 200)  # dropped
    wait_until(lambda: not writer._dropped)
    writer.write(b"later\n")
    wait_until(lambda: "later" in reader.lines())


def test_an_error_raised_in_the_middle_leaves_the_size_of_the_buffer_right() -> None:
    reader = Reader()
    writer = make_writer(reader)
    with without_log_thread(writer):
        writer.write(b"line\n")
        writer._size += 1_000  # lines that were taken, and an error before they were subtracted
        assert writer.flush()
        assert writer._size == 0


def test_after_close_each_line_is_written_at_once() -> None:
    reader = Reader()
    writer = make_writer(reader)
    writer.write(b"one\n")
    writer.close()
    assert reader.lines() == ["one"]
    writer.write(b"two\n")
    assert reader.lines() == ["one", "two"]


def test_a_closed_pipe_is_no_error() -> None:
    def send(record: bytes) -> None:
        raise OSError("handle is closed")

    writer = LogWriter(send, lambda count: b"")
    writer.write(b"line\n")
    writer.close()
    writer.write(b"line\n")


def test_a_forked_process_writes_no_line_of_its_parent_again() -> None:
    read, write = os.pipe()
    writer = LogWriter(lambda record: (os.write(write, record), None)[1], lambda count: b"")
    for _ in range(100):
        writer.write(b"parent\n")
    pid = os.fork()
    if pid == 0:  # pragma: no cover - runs in the child
        writer.write(b"child\n")
        writer.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    writer.write(b"end\n")
    assert writer.flush()
    lines = os.read(read, 60_000).decode().splitlines()
    os.close(read)
    assert sorted(lines) == ["child", "end", *["parent"] * 100]


def test_a_signal_handler_may_write_lines() -> None:
    reader = Reader()
    writer = make_writer(reader)
    signals = 0

    def handle(*_: Any) -> None:
        nonlocal signals
        signals += 1
        writer.write(b"signal\n")

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        written = 0
        while signals < 200 or written < 20_000:
            writer.write(b"line\n")
            written += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert writer.flush()
    wait_until(lambda: len(reader.lines()) == written + signals)


@pytest.fixture
def handler() -> LineHandler:
    def encode(fields: Mapping[str, Any]) -> bytes:
        return json.dumps(fields).encode() + b"\n"

    return LineHandler(make_writer(Reader()), encode)


@contextmanager
def logger_with(handler: LineHandler) -> Iterator[logging.Logger]:
    """A logger whose records reach this handler alone, without the handlers of pytest."""
    parent = logging.getLogger("tests.lines")
    parent.propagate = False
    parent.handlers[:] = [handler]
    parent.setLevel(logging.INFO)
    yield logging.getLogger("tests.lines.child")
    parent.handlers.clear()
    parent.propagate = True


def lines_of(handler: LineHandler) -> list[str]:
    handler.flush()
    reader = handler.writer._send
    assert isinstance(reader, Reader)
    return reader.lines()


def test_the_handler_is_found_if_a_record_would_reach_no_other(handler: LineHandler) -> None:
    with logger_with(handler) as logger:
        assert only_handler(logger) is handler
        other = logging.NullHandler()
        logger.addHandler(other)
        assert only_handler(logger) is None
        logger.removeHandler(other)
        handler.addFilter(lambda record: True)
        assert only_handler(logger) is None
        handler.filters.clear()
        logger.addFilter(lambda record: True)
        assert only_handler(logger) is None
        logger.filters.clear()
        assert only_handler(logger) is handler
        assert only_handler(logging.getLogger("tests.others")) is not handler


def test_an_error_is_written_before_the_call_returns(handler: LineHandler) -> None:
    with logger_with(handler) as logger:
        reader = handler.writer._send
        assert isinstance(reader, Reader)
        reader.reads.clear()
        logger.info("before")
        reader.reads.set()
        logger.error("now")
        assert reader.lines() == ["before", "now"]


def test_a_record_that_cannot_be_formatted_shows_no_arguments(handler: LineHandler) -> None:
    with logger_with(handler) as logger:
        logger.info("%d", "SECRET")
        (line,) = map(json.loads, lines_of(handler))
        assert (line["level"], line["msg"]) == ("ERROR", "a log line cannot be written")
        assert line["logger"] == "tests.lines.child"
        assert "SECRET" not in str(line)
