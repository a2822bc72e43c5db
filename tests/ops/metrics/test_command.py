"""formrelay metrics: the page without a worker."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from formrelay.config import WorkerHttpSettings
from formrelay.core.errors import ConfigError
from formrelay.ops.cli.metrics import _serve
from formrelay.ops.metrics.files import WorkerFiles
from tests.ops.metrics.processes import Process, jobs
from tests.ops.metrics.test_exposition import samples
from tests.support.command import clean_environment, run, start_python
from tests.support.servers.base import free_port
from tests.support.waiting import wait_until


def test_the_page_is_printed_or_served_without_a_worker(redis_url: str, tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "http"
    process = Process(WorkerFiles(folder), "1-aa", {"jobs": {("q", "a"): jobs(3)}})
    env = {"REDIS_URL": redis_url, "WORKER_HTTP_DIR": str(folder)}
    printed = run("metrics", "--once", cwd=tmp_path, env=env)
    assert (printed.returncode, printed.stderr) == (0, "")
    found = samples(printed.stdout)
    assert found["jobs_total{actor=a,outcome=done,queue=q}"] == 3
    assert found["queue_backlog_jobs{queue=webhooks}"] == 0
    assert (found["broker_up{}"], found["workers{}"]) == (1, 1)

    env |= {"WORKER_HTTP_PORT": str(port)}
    log, words = tmp_path / "log", ("-m", "formrelay", "metrics")
    server = start_python(*words, cwd=tmp_path, env=clean_environment(**env), log=log)

    def page() -> dict[str, float]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
                return samples(answer.read().decode())
        except OSError:
            return {}

    try:
        wait_until(lambda: page().get("queue_backlog_jobs{queue=webhooks}") == 0, every=0.3)
        process.end()
        assert page()["workers{}"] == 0
    finally:
        server.terminate()
    assert server.wait(60) == 0
    assert log.read_text() == f"metrics: http://127.0.0.1:{port}/metrics  (Ctrl-C stops it)\n"


def test_a_port_is_needed_to_serve() -> None:
    with pytest.raises(ConfigError, match="expected WORKER_HTTP_PORT to be set, got nothing"):
        _serve(WorkerHttpSettings())
