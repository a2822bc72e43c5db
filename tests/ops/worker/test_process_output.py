"""Every line that a worker writes is a log line, whoever wrote it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path

import pytest

from formrelay.ops.worker import process_output
from tests.ops.shell import Shell
from tests.support.waiting import wait_until

ACTORS = """
import logging, sys, threading, warnings
import dramatiq

@dramatiq.actor(queue_name="own", max_retries=0)
def talk(*_, **__):
    print("first\\nsecond \\x1b[31m")
    print("no line break", end="")
    print("on stderr", file=sys.stderr)
    warnings.warn("careful")
    logging.getLogger("theirs").info("ordinary", extra={"their_field": 1})
    thread = threading.Thread(target=lambda: int("SECRET"))
    thread.start()
    thread.join()
    raise ValueError("told of an actor of one's own")
"""


@pytest.mark.slow
def test_every_line_of_a_worker_is_a_json_object(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(ACTORS)
    shell = Shell(tmp_path, FORMRELAY_IMPORTS="own")
    log = tmp_path / "worker.log"
    with shell.worker("own") as worker:
        shell("send", "talk", "{}")
        wait_until(lambda: log.exists() and '"outcome":"dead"' in log.read_text(), every=0.3)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all({"time", "level", "worker", "logger", "msg"} <= line.keys() for line in lines)
    assert "SECRET" not in log.read_text()
    said = [(line["level"], line["logger"], line["msg"].splitlines()[0]) for line in lines]
    assert ("INFO", "stdout", "first") in said
    assert ("INFO", "stdout", "second \x1b[31m") in said
    assert "\x1b" not in log.read_text()
    assert ("ERROR", "stderr", "on stderr") in said
    assert any(level == "WARNING" and "careful" in text for level, _, text in said)
    assert ("INFO", "theirs", "ordinary") in said
    assert any(level == "CRITICAL" and "in the thread" in text for level, _, text in said)
    assert any("is booting up" in text for _, _, text in said)
    assert any("Stopping worker process" in text for _, _, text in said)
    (theirs,) = [line for line in lines if line["logger"] == "theirs"]
    assert theirs["their_field"] == 1
    (attempt,) = [line for line in lines if line["msg"] == "attempt"]
    assert attempt["worker"] != lines[0]["worker"]  # a process of its own
    assert attempt["errorType"] == "ValueError"
    assert attempt["errorMessage"] == "told of an actor of one's own"


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="pipes have a fixed size")
def test_a_pipe_for_log_lines_holds_thousands_of_lines() -> None:
    reading, writing = os.pipe()
    try:
        process_output._enlarge_pipe(writing)
        assert os.write(writing, b"x" * 200_000) == 200_000  # would block otherwise
    finally:
        os.close(reading)
        os.close(writing)


def test_what_is_no_pipe_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "file").open("wb") as file:
        process_output._enlarge_pipe(file.fileno())
        monkeypatch.delattr(fcntl, "F_SETPIPE_SZ", raising=False)  # as on macOS
        process_output._enlarge_pipe(file.fileno())
    process_output._enlarge_pipe(-1)


def test_a_process_ends_when_its_lines_are_read_or_nobody_reads_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, b"lines")
        with ThreadPoolExecutor(1) as threads:
            ended = threads.submit(process_output._wait_until_read, writing)
            with pytest.raises(FutureTimeoutError):
                ended.result(0.05)
            assert os.read(reading, 100) == b"lines"
            ended.result(30)
        os.write(writing, b"lines")
        monkeypatch.setattr(process_output, "_READ_TIMEOUT", 0.01)
        process_output._wait_until_read(writing)
    finally:
        os.close(reading)
        os.close(writing)
    process_output._wait_until_read(writing)
