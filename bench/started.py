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

import redis

JOB = {
    "payload": {"answers": {f"question_{number}": "x" * 20 for number in range(7)}},  # 300 bytes
    "metadata": {"formId": "form-1", "submissionId": "submission-1"},
}
HERE = Path(__file__).parent
#: Shares of the jobs between which the rate is measured: not the start, and not the last jobs.
_FROM, _TO = 0.1, 0.9
_TIMEOUT = 300.0
#: Seconds after the first job until a worker counts as idle, and for which it is watched.
_SETTLE_SECONDS, _IDLE_SECONDS = 4.0, 10.0
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
    with ExitStack() as stack:
        site = Site(contender, queue, count, stack, processes=processes, concurrency=concurrency)
        os.environ["LOG_LEVEL"] = log_level
        site.start()
        return {"per_second": site.rate()}


def log_lines(contender: str, *, queue: str, count: int) -> Any:
    """Switch the log lines of one worker on and off in turns.

    Two runs on a shared machine may differ by more than the lines cost.

    Returns:
        Jobs per second with log lines and without, by the title of the contender.
    """
    with ExitStack() as stack:
        site = Site(contender, queue, count, stack)
        file = site.folder / "turns"
        os.environ["BENCH_TURNS"] = str(file)
        site.start()
        site.wait(int(count * _FROM))
        begun = len(file.read_text().splitlines())
        site.wait(int(count * _TO))
        turns = [json.loads(line) for line in file.read_text().splitlines()]
    turns = turns[-(-begun // 4) * 4 : len(turns) // 4 * 4]  # whole groups, see started_ours
    if not turns:
        raise SystemExit(f"expected jobs for four turns or more, {count} took less: send more jobs")
    return {
        "with log lines": {"per_second": _rate([turn for turn in turns if turn["with_lines"]])},
        "without": {"per_second": _rate([turn for turn in turns if not turn["with_lines"]])},
    }


def _rate(turns: list[dict[str, Any]]) -> float:
    return sum(turn["jobs"] for turn in turns) / sum(turn["seconds"] for turn in turns)


def idle(contender: str, *, queue: str, all_queues: bool = False) -> Any:
    """Seconds from the start of a worker to its first job; then what it costs without jobs.

    Args:
        all_queues: whether a worker of formrelay runs all its queues, as by default.

    Returns:
        ``first_job_s``; memory of its largest process and of all its processes in MB (shared pages
        count once for each process); CPU time in percent of a core; reads of Redis a second.
    """
    with ExitStack() as stack:
        site = Site(contender, queue, 1, stack)
        if all_queues:  # what its actors need; none of them runs
            os.environ.update(
                CLICKHOUSE_URL=os.environ["FORMRELAY_TEST_CLICKHOUSE_URL"],
                API_URL="http://127.0.0.1:9",
                API_TOKEN="token",  # noqa: S106
                SMTP_URL="smtp+none://127.0.0.1:9",
                EMAIL_FROM="forms@here.example",
            )
        begin = time.perf_counter()
        (worker,) = site.start(all_queues=all_queues)
        site.wait(1)
        first_job = time.perf_counter() - begin
        time.sleep(_SETTLE_SECONDS)
        requests, cpu = _redis_reads(), cpu_seconds(worker.pid)
        time.sleep(_IDLE_SECONDS)
        cpu, requests = cpu_seconds(worker.pid) - cpu, _redis_reads() - requests - 1
        sizes = [_megabytes(pid) for pid in _processes(worker.pid)]
        return {
            "first_job_s": first_job,
            "worker_mb": max(sizes),
            "all_mb": sum(sizes),
            "cpu_percent": cpu / _IDLE_SECONDS * 100,
            "redis_reads": requests / _IDLE_SECONDS,
        }


class Site:
    """A folder, jobs on a queue, and the workers that run them.

    Args:
        contender: broker and system, for example ``redis-ours``.
        count: number of jobs to send.
        stack: ends everything.
        concurrency: jobs at a time in a process of BullMQ.
    """

    #: Seconds between two looks at the number of jobs that have run.
    every = 0.002

    def __init__(
        self,
        contender: str,
        queue: str,
        count: int,
        stack: ExitStack,
        *,
        processes: int = 1,
        concurrency: int = 10,
    ) -> None:
        self.contender, self._queue, self._count = contender, queue, count
        self._processes, self._stack = processes, stack
        kind, _, self._system = contender.partition("-")
        url = os.environ[f"FORMRELAY_TEST_{kind.upper()}_URL"]
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        #: A file that has one byte for each job that has run.
        self.done, self._log = self.folder / "done", self.folder / "log"
        self.done.touch()
        os.environ.update(
            BROKER=kind,
            **{f"{kind.upper()}_URL": url},
            LOG_LEVEL="info",
            FORMRELAY_IMPORTS="started_ours",
            BENCH_URL=url.replace("%2F", "") if self._system == "celery" else url,
            BENCH_JOB=json.dumps(JOB),
            BENCH_JOBS="",
            BENCH_KIND="",
            BENCH_COUNT=str(count),
            BENCH_DONE=str(self.done),
            BENCH_QUEUE=queue,
            BENCH_CONCURRENCY=str(concurrency),
            BENCH_TURNS="",
        )

    def ran(self) -> int:
        """The number of jobs that have run."""
        return self.done.stat().st_size

    def start(self, *, all_queues: bool = False) -> list[subprocess.Popen[bytes]]:
        """Send the jobs, then start the workers."""
        fill, commands = _commands(self._system, self._queue, self._processes)
        sent = subprocess.run(fill, cwd=HERE, capture_output=True, text=True, check=False)
        if sent.returncode:
            raise SystemExit(f"{self.contender} could not send its jobs: {sent.stderr[-2000:]}")
        if all_queues:
            at = commands[0].index("--queues")
            del commands[0][at : at + 2]
        log = self._stack.enter_context(self._log.open("wb"))
        workers = []
        for command in commands:
            workers.append(subprocess.Popen(command, cwd=HERE, stdout=log, stderr=log))
            self._stack.callback(_stop, workers[-1])
        return workers

    def rate(self) -> float:
        """Jobs per second between two shares of the jobs."""
        first, start = self.wait(int(self._count * _FROM))
        last, end = self.wait(int(self._count * _TO))
        return (last - first) / (end - start)

    def wait(self, wanted: int) -> tuple[int, float]:
        """Wait until a number of jobs have run; return the number, and when it was seen."""
        deadline = time.perf_counter() + _TIMEOUT
        while (ran := self.ran()) < wanted:
            if time.perf_counter() > deadline:
                raise SystemExit(
                    f"expected {wanted} jobs to run in {_TIMEOUT:g} s, got {ran}: "
                    f"{self._log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(self.every)
        return ran, time.perf_counter()


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
    # The package that was added last.
    if not (HERE / "bullmq" / "node_modules" / "undici").exists():
        install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"]
        subprocess.run(install, cwd=HERE / "bullmq", check=True, capture_output=True)


def _stop(worker: subprocess.Popen[bytes]) -> None:
    worker.send_signal(signal.SIGTERM)
    try:
        worker.wait(_GRACE)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


def _redis_reads() -> int:
    with redis.Redis.from_url(os.environ["FORMRELAY_TEST_REDIS_URL"]) as client:
        return int(client.info("stats")["total_reads_processed"])


def _processes(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for each in found:
        for tasks in Path(f"/proc/{each}/task").glob("*/children"):
            found += map(int, tasks.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and all its descendants."""
    ticks = 0
    for each in _processes(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _megabytes(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
