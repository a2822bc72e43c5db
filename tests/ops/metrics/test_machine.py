"""Worker commands that run on one machine at the same time share one port."""

from __future__ import annotations

import os
import signal
import urllib.request
from pathlib import Path

import dramatiq

from formrelay.brokers.redis.broker import RedisBroker
from formrelay.ops.metrics.files import WorkerFiles
from tests.ops.metrics.test_exposition import samples
from tests.support.command import clean_environment, start_python
from tests.support.servers.base import free_port
from tests.support.waiting import wait_until

HEALTH = "api/v1/workers/health"
ACTORS = """
import dramatiq
from formrelay.brokers import get_broker

@dramatiq.actor(broker=get_broker(), queue_name="chores")
def chore():
    pass
"""


def test_workers_of_several_commands_share_the_port_and_killed_workers_are_counted(
    redis_url: str, tmp_path: Path
) -> None:
    (tmp_path / "chores.py").write_text(ACTORS)
    port, folder = free_port(), tmp_path / "http"
    variables = {"REDIS_URL": redis_url, "WORKER_HTTP_PORT": str(port), "PYTHONPATH": str(tmp_path)}
    env = clean_environment(**variables, WORKER_HTTP_DIR=str(folder))
    commands = (
        ("-m", "formrelay", "worker", "chores", "--import", "chores"),
        ("-m", "dramatiq", "-p1", "formrelay.worker", "chores", "--queues", "chores"),
    )
    log = tmp_path / "log"
    programs = [
        start_python(*words, cwd=tmp_path, env=env, log=log, may_exec=True) for words in commands
    ]

    def page() -> dict[str, float]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
                return samples(answer.read().decode())
        except OSError:
            return {}

    def value(name: str) -> float | None:
        return page().get(name)

    try:
        wait_until(lambda: value("workers{}") == 2, every=0.3)
        for path, text in (("livez", "ok\n"), ("readyz", "ok\n"), (HEALTH, '"queue":"chores"')):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=30) as answer:
                assert text in answer.read().decode()
        broker = RedisBroker(redis_url)
        broker.declare_queue("chores")
        for _ in range(20):
            broker.enqueue(dramatiq.Message("chores", "chore", (), {}, {}))
        broker.close()
        done = "jobs_total{actor=chore,outcome=done,queue=chores}"
        wait_until(lambda: value(done) == 20, every=0.3)
        # Kill a worker, not its main process: Dramatiq then ends the command.
        os.kill(WorkerFiles(folder).read().live[0].pid, signal.SIGKILL)
        wait_until(lambda: value("workers{}") == 1, every=0.3)
        assert value("worker_crashes_total{}") == 1
        assert value("worker_starts_total{}") == 2
        assert value(done) == 20
    finally:
        for program in programs:
            program.terminate()
        for program in programs:
            program.wait(60)
    machine = WorkerFiles(folder).read()
    assert (machine.live, machine.starts, machine.crashes) == ((), 2, 1)
    assert machine.counts["jobs"]["chores", "chore"][0] == 20
    assert "Traceback" not in log.read_text()
