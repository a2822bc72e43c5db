"""Workers as people start them: the command line, default settings, a job with a system call."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

JOB = {
    "payload": {"answers": {f"question_{number}": "x" * 20 for number in range(7)}},  # 300 bytes
    "metadata": {"formId": "form-1", "submissionId": "submission-1"},
}
HERE = Path(__file__).parent
#: Shares of the jobs between which the rate is measured: not the start, and not the last jobs.
_FROM, _TO = 0.1, 0.9
_TIMEOUT = 300.0
#: Seconds until a worker that has got SIGTERM is killed: it is not measured.
_GRACE = 30.0
#: Celery and its dependencies have an environment of their own.
_CELERY = HERE.parent / ".venv-celery"


def started(
    contender: str,
    *,
    queue: str,
    count: int,
    processes: int = 1,
    log_level: str = "info",
    concurrency: int = 10,
) -> Any:
    """Jobs per second of a worker whose output goes to a file.

    Args:
        contender: broker and system, for example ``redis-ours`` or ``rabbitmq-celery``.
        log_level: of formrelay.
        concurrency: jobs at a time in a process of BullMQ.
    """
    kind, _, system = contender.partition("-")
    url = os.environ[f"FORMRELAY_TEST_{kind.upper()}_URL"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="formrelay-bench-")))
        done = folder / "done"
        done.touch()
        os.environ.update(
            BROKER=kind,
            **{f"{kind.upper()}_URL": url},
            LOG_LEVEL=log_level,
            FORMRELAY_IMPORTS="started_ours",
            BENCH_URL=url.replace("%2F", "") if system == "celery" else url,
            BENCH_JOB=json.dumps(JOB),
            BENCH_COUNT=str(count),
            BENCH_DONE=str(done),
            BENCH_QUEUE=queue,
            BENCH_CONCURRENCY=str(concurrency),
        )
        fill, workers = _commands(system, queue, processes)
        sent = subprocess.run(fill, cwd=HERE, capture_output=True, text=True, check=False)
        if sent.returncode:
            raise SystemExit(f"{contender} could not send its jobs: {sent.stderr[-2000:]}")
        log = stack.enter_context((folder / "log").open("wb"))
        for command in workers:
            worker = subprocess.Popen(command, cwd=HERE, stdout=log, stderr=log)
            stack.callback(_stop, worker)
        return {"per_second": _rate(done, count, folder / "log")}


def _commands(system: str, queue: str, processes: int) -> tuple[list[str], list[list[str]]]:
    """The command that sends the jobs, and the commands that run them."""
    dramatiq = [sys.executable, "-m", "dramatiq"]
    options = ["--queues", queue, "--processes", str(processes), "--path", str(HERE)]
    match system:
        case "ours":
            return [sys.executable, "started_ours.py"], [[*dramatiq, "formrelay.worker", *options]]
        case "stock":
            return [sys.executable, "started_stock.py"], [[*dramatiq, "started_stock", *options]]
        case "celery":
            python = str(_celery())
            worker = [python, "-m", "celery", "-A", "started_celery", "worker"]
            return [python, "started_celery.py"], [[*worker, "--concurrency", str(processes)]]
        case "bullmq":
            _npm_install()
            worker = ["node", "bullmq/worker.js"]
            return [*worker, "fill"], [worker] * processes
    raise ValueError(system)


def _celery() -> Path:
    python = _CELERY / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(_CELERY)], check=True)
        install = [python, "-m", "pip", "install", "-q", "celery[redis]"]
        subprocess.run(install, check=True, capture_output=True)
    return python


def _npm_install() -> None:
    if not (HERE / "bullmq" / "node_modules").exists():
        install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"]
        subprocess.run(install, cwd=HERE / "bullmq", check=True, capture_output=True)


def _stop(worker: subprocess.Popen[bytes]) -> None:
    worker.send_signal(signal.SIGTERM)
    try:
        worker.wait(_GRACE)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


def _rate(done: Path, count: int, log: Path) -> float:
    first, start = _wait(done, int(count * _FROM), log)
    last, end = _wait(done, int(count * _TO), log)
    return (last - first) / (end - start)


def _wait(done: Path, wanted: int, log: Path) -> tuple[int, float]:
    """Wait until a number of jobs have run; return the number, and when it was seen."""
    deadline = time.perf_counter() + _TIMEOUT
    while (ran := done.stat().st_size) < wanted:
        if time.perf_counter() > deadline:
            raise SystemExit(
                f"expected {wanted} jobs within {_TIMEOUT:.0f} s, got {ran}; the end of the log:\n"
                f"{log.read_text(errors='replace')[-2000:]}"
            )
        time.sleep(0.002)
    return ran, time.perf_counter()
