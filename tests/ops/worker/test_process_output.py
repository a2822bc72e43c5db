"""Every line that a worker writes is a log line, whoever wrote it."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.ops.shell import Shell
from tests.support.waiting import wait_until

ACTORS = """
import asyncio, gc, logging, sys, threading, warnings
import dramatiq

class Leaves:
    def __del__(self):
        raise LookupError("TEXT")

async def leave_a_task():
    async def fail():
        raise RuntimeError("TEXT")
    asyncio.create_task(fail())
    await asyncio.sleep(0)

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
    Leaves()
    asyncio.run(leave_a_task())
    gc.collect()
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
    assert any("in a destructor" in text for _, _, text in said)
    assert ("ERROR", "asyncio", "Task exception was never retrieved") in said
    # In excInfo alone, where the settings of the actor permit it.
    assert not any("TEXT" in line["msg"] for line in lines)
    assert any("is booting up" in text for _, _, text in said)
    assert any("Stopping worker process" in text for _, _, text in said)
    (theirs,) = [line for line in lines if line["logger"] == "theirs"]
    assert theirs["their_field"] == 1
    (attempt,) = [line for line in lines if line["msg"] == "attempt"]
    assert attempt["worker"] != lines[0]["worker"]  # a process of its own
    assert attempt["errorType"] == "ValueError"
    assert attempt["errorMessage"] == "told of an actor of one's own"


TALKS_AT_THE_END = """
import logging
import dramatiq
from dramatiq.middleware import Middleware
from formrelay.brokers import get_broker

class Ends(Middleware):
    def after_worker_shutdown(self, broker, worker):
        for number in range(700):
            logging.getLogger("theirs").warning("end %d %s", number, "x" * 200)

get_broker().add_middleware(Ends())

@dramatiq.actor(queue_name="own")
def act(*_, **__):
    pass
"""


@pytest.mark.slow
def test_the_last_lines_of_all_processes_arrive_where_they_are_read_slowly(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(TALKS_AT_THE_END)
    shell = Shell(tmp_path, FORMRELAY_IMPORTS="own", WORKER_PROCESSES="3")
    os.mkfifo(tmp_path / "worker.log")
    read: list[bytes] = []

    def read_slowly() -> None:
        with open(tmp_path / "worker.log", "rb", buffering=0) as pipe:
            while some := pipe.read(4096):
                read.append(some)
                threading.Event().wait(0.004)

    reader = threading.Thread(target=read_slowly)
    reader.start()
    with shell.worker("own") as worker:
        wait_until(lambda: b"".join(read).count(b"is ready for action") == 3, every=0.3)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    reader.join(60)
    lines = [json.loads(line) for line in b"".join(read).splitlines()]
    ends = Counter(line["worker"] for line in lines if line["msg"].startswith("end "))
    assert len(ends) == 3
    assert set(ends.values()) == {700}
