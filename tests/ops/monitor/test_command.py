"""``formrelay monitor``, and the monitor of a worker process."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dramatiq import Message, Worker

from formrelay.brokers.redis.broker import RedisBroker
from formrelay.ops.monitor.in_worker import MonitorInWorker
from formrelay.ops.monitor.receivers import make_receivers
from tests.ops.monitor.watched import settings_of
from tests.support.command import run
from tests.support.waiting import wait_until


@pytest.fixture
def broker(redis_url: str) -> Iterator[RedisBroker]:
    broker = RedisBroker(redis_url)
    yield broker
    broker.close()


@pytest.mark.redis
def test_once_prints_the_problems_and_test_tries_the_receivers(
    redis_url: str, tmp_path: Path
) -> None:
    def command(*arguments: str, **env: str) -> tuple[int, Any]:
        done = run("monitor", *arguments, "--json", cwd=tmp_path, env=env)
        assert "a-secret" not in done.stdout + done.stderr
        return done.returncode, json.loads(done.stdout)

    status, problems = command("--once", REDIS_URL=redis_url, API_URL="http://127.0.0.1:1")
    assert [(each["rule"], each["labels"]) for each in problems] == [
        ("sink_unreachable", {"sink": "api"})
    ]
    assert status == 1
    gone = "redis://127.0.0.1:1"
    for env, rule in (
        ({"REDIS_URL": gone}, "broker_unreachable"),
        ({"REDIS_URL": redis_url, "STATE_URL": gone}, "store_unreachable"),
    ):
        status, problems = command("--once", **env)
        assert [each["rule"] for each in problems] == [rule]
        assert status == 1
    url = "http://127.0.0.1:1/services/a-secret"
    status, tried = command("--test", REDIS_URL="redis://127.0.0.1:1", ALERT_SLACK_URL=url)
    assert [(each["receiver"], each["ok"]) for each in tried] == [("log", True), ("slack", False)]
    assert status == 1


@pytest.mark.redis
def test_a_worker_process_monitors_while_its_workers_run(
    broker: RedisBroker, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(WORKER_MONITORING_ENABLED="true", WORKER_MONITORING_INTERVAL="100")
    broker.add_middleware(MonitorInWorker(settings))
    broker.declare_queue("nobody")
    broker.enqueue(Message("nobody", "job", (), {}, {}))
    leader = f"{broker.keys.namespace}:__alerts__"
    worker = Worker(broker, queues={"other"}, worker_timeout=50, worker_threads=1)
    with caplog.at_level(logging.INFO, "formrelay.alerts"):
        worker.start()
        wait_until(lambda: any("queue_without_worker" in each.message for each in caplog.records))
        worker.stop()
    assert broker.client.hget(leader, "leader") is None, "another may lead at once"


def test_the_log_is_always_a_receiver_and_the_others_are_configured() -> None:
    settings = settings_of(
        ALERT_WEBHOOK_URL="https://a.example",
        ALERT_WEBHOOK_SECRET="text",
        ALERT_SLACK_URL="https://b.example",
        ALERT_ALERTMANAGER_URL="http://c:9093",
    )
    names = [each.name for each in make_receivers(settings)]
    assert names == ["log", "webhook", "alertmanager", "slack"]
