"""Jobs that run for longer than RabbitMQ's ``consumer_timeout``."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.ops.worker.time_limits import exceeding_time_limits
from tests.support.command import run
from tests.support.harness import Harness
from tests.support.servers.rabbitmq import RabbitServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

TIMEOUT = timedelta(seconds=4)
OPTIONS = BrokerOptions(consumer_timeout=TIMEOUT)
ACTORS = """
import dramatiq

@dramatiq.actor(queue_name="reports", time_limit=%d)
def write_report(): pass
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitServer]:
    """A server with a short ``consumer_timeout``."""
    with RabbitServer(consumer_timeout_ms=int(TIMEOUT.total_seconds() * 1000)) as server:
        yield server


@pytest.fixture
def harness(server: RabbitServer, unique: str) -> Iterator[Harness]:
    harness = Harness(RabbitBroker(server.url, options=OPTIONS), unique)
    yield harness
    harness.close()


def test_a_job_past_the_timeout_runs_twice_and_the_log_says_why(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason for the check in ``doctor``; with a time limit that is too long."""
    runs: list[float] = []

    def work() -> None:
        runs.append(time.monotonic())
        if len(runs) == 1:  # past the timeout: until RabbitMQ has delivered the job again
            wait_until(lambda: len(runs) == 2)

    harness.actor(work, actor_name="act", time_limit=60_000).send()
    assert "time_limit of act to be at most 2 s" in next(exceeding_time_limits(harness.broker))
    with caplog.at_level(logging.ERROR, "formrelay.brokers"):
        harness.start(threads=2)
        wait_until(lambda: len(runs) == 2)
    (line,) = [
        record for record in caplog.records if record.message == "broker error, reconnecting"
    ]
    assert "consumer_timeout; lower the actor's time_limit" in line.__dict__["error_message"]


def test_jobs_within_half_of_the_timeout_run_once(harness: Harness) -> None:
    """Also the jobs that wait for a thread."""
    runs: list[int] = []

    def work(number: int) -> None:
        runs.append(number)
        time.sleep(1.5)  # the duration is the subject: just below the time limit

    actor = harness.actor(work, actor_name="act", time_limit=2_000)
    assert list(exceeding_time_limits(harness.broker)) == []
    harness.broker.enqueue_many([actor.message(number) for number in range(6)])
    harness.start(threads=1)
    wait_until(lambda: len(runs) >= 6 and harness.is_empty())
    assert sorted(runs) == list(range(6))


def test_doctor_refuses_a_time_limit_above_half_of_the_timeout(
    server: RabbitServer, tmp_path: Path
) -> None:
    env = {"RABBITMQ_URL": server.url, "RABBITMQ_CONSUMER_TIMEOUT_SECONDS": "3600"}
    for minutes, status in ((31, 1), (30, 0)):
        # Another name each time: Python would load the compiled file of an equally long module.
        module = f"mine{minutes}"
        (tmp_path / f"{module}.py").write_text(ACTORS % (minutes * 60_000))
        command = ("doctor", "--queue", "webhooks", "--json", "--import", module)
        done = run(*command, cwd=tmp_path, env=env)
        found = [one for one in json.loads(done.stdout) if one["what"] == "time limits"]
        assert done.returncode == status, done.stdout
        if status:
            assert found[0]["state"] == "bad"
            assert "write_report to be at most 1800 s" in found[0]["says"]
        else:
            assert found == []
