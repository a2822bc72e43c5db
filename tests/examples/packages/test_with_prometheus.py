"""examples/packages/with_prometheus.py: the metrics of jobs that end in each way."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

import pytest

from tests.examples.packages.running import Place, worker
from tests.support.servers.base import free_port
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def metrics(place: Place) -> dict[str, float]:
    """What the exposition server of Dramatiq's command line serves after all jobs."""
    port, folder = free_port(), place.folder / "metrics"
    variables = {"dramatiq_prom_port": str(port), "dramatiq_prom_db": str(folder)}
    ours = free_port()
    variables |= {"WORKER_HTTP_PORT": str(ours), "WORKER_HTTP_DIR": str(place.folder / "http")}
    with worker(place, "with_prometheus", "measured", **variables) as program:
        for actor in ("measure", "measure_async"):
            for _ in range(4):
                place.send("measured", actor, 300)
            place.send("measured", actor, 0, time.time() + 1)  # deferred several times
            place.send("measured", actor, 0, kwargs={"error": "x"})  # retried once
        program.wait_for_outcomes(done=10, dead=2)
        wait_until(lambda: _rejected(_served(port)) == 2)  # counted after the line of the attempt
        name = 'formrelay_job_duration_seconds_count{actor="measure",queue="measured"}'
        wait_until(lambda: _served(ours).get(name) == 7, every=0.3)  # two attempts fail
        return _served(port) | _served(ours)


def _served(port: int) -> dict[str, float]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    except urllib.error.URLError:  # the server has not started yet
        return {}
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def _rejected(metrics: dict[str, float]) -> float:
    return sum(
        of(metrics, "message_rejects_total", actor) for actor in ("measure", "measure_async")
    )


def of(metrics: dict[str, float], name: str, actor: str) -> float:
    return metrics.get(f'dramatiq_{name}{{actor_name="{actor}",queue_name="measured"}}', 0)


@pytest.mark.parametrize("actor", ["measure", "measure_async"])
def test_the_counters_are_right_after_successes_deferrals_and_a_failure(
    metrics: dict[str, float], actor: str
) -> None:
    assert of(metrics, "message_errors_total", actor) == 2  # one message, two attempts
    assert of(metrics, "message_rejects_total", actor) == 1
    assert of(metrics, "message_retries_total", actor) == 1
    assert of(metrics, "messages_inprogress", actor) == 0
    deferrals = of(metrics, "messages_total", actor) - (4 + 1 + 2)
    assert 1 <= deferrals <= 10  # each counts as a message that was skipped
    count = of(metrics, "message_duration_milliseconds_count", actor)
    assert count == of(metrics, "messages_total", actor)
    assert of(metrics, "message_duration_milliseconds_sum", actor) >= 4 * 299


def test_formrelay_serves_its_own_metrics_beside_them(metrics: dict[str, float]) -> None:
    assert metrics['formrelay_jobs_total{actor="measure",outcome="done",queue="measured"}'] == 5
    assert metrics['formrelay_jobs_total{actor="measure",outcome="dead",queue="measured"}'] == 1
    assert metrics['formrelay_deferrals_total{queue="measured",reason="actor"}'] >= 2
    assert metrics["formrelay_workers"] == 1
