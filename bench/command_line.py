"""Workers as people start them: the command line, default settings, a job with a system call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PAYLOAD = {"answers": {f"question_{number}": "x" * 20 for number in range(7)}}  # 300 bytes of JSON
METADATA = {"formId": "form-1", "submissionId": "submission-1"}
#: Shares of the jobs between which the rate is measured: not the start, and not the last jobs.
_FROM, _TO = 0.1, 0.9
_TIMEOUT = 300.0


def command_line(
    contender: str, *, queue: str, count: int, processes: int = 1, log_level: str = "info"
) -> Any:
    """Jobs per second of ``dramatiq formrelay.worker``, whose log lines go to a file."""
    kind = contender.partition("-")[0]
    url = os.environ[f"FORMRELAY_TEST_{kind.upper()}_URL"]
    with tempfile.TemporaryDirectory(prefix="formrelay-bench-") as name:
        done = Path(name) / "done"
        done.touch()
        os.environ.update(
            BROKER=kind,
            **{f"{kind.upper()}_URL": url},
            BENCH_DONE=str(done),
            BENCH_QUEUE=queue,
            LOG_LEVEL=log_level,
            FORMRELAY_IMPORTS="own_job",
        )
        _fill(count)
        command = [sys.executable, "-m", "dramatiq", "formrelay.worker", "--queues", queue]
        command += ["--processes", str(processes), "--path", str(Path(__file__).parent)]
        with (Path(name) / "log").open("wb") as log:
            worker = subprocess.Popen(command, cwd=name, stderr=log, stdout=log)
            try:
                return {"per_second": _rate(done, count)}
            finally:
                worker.send_signal(signal.SIGTERM)
                worker.wait()


def _fill(count: int) -> None:
    import dramatiq

    from formrelay.brokers import get_broker

    broker = get_broker()
    dramatiq.set_broker(broker)
    from own_job import job

    arguments = {"kwargs": {"payload": PAYLOAD, "metadata": METADATA}}
    broker.enqueue_many(job.message_with_options(**arguments) for _ in range(count))
    broker.close()


def _rate(done: Path, count: int) -> float:
    first, start = _wait(done, int(count * _FROM))
    last, end = _wait(done, int(count * _TO))
    return (last - first) / (end - start)


def _wait(done: Path, wanted: int) -> tuple[int, float]:
    """Wait until a number of jobs have run; return the number, and when it was seen."""
    deadline = time.perf_counter() + _TIMEOUT
    while (ran := done.stat().st_size) < wanted:
        if time.perf_counter() > deadline:
            raise SystemExit(f"expected {wanted} jobs within {_TIMEOUT:.0f} s, got {ran}")
        time.sleep(0.002)
    return ran, time.perf_counter()
