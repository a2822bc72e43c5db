"""A worker stops in time even if Redis accepts connections and never answers."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from tests.faults.workers import Workers
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.redis


@pytest.mark.slow
def test_a_worker_stops_in_time_while_redis_does_not_answer(tmp_path: Path, redis_url: str) -> None:
    queues = ("SUBMISSION_QUEUE", "PARTIAL_QUEUE", "WEBHOOK_QUEUE")
    with Proxy(urlsplit(redis_url).port or 0) as proxy, redis.Redis.from_url(redis_url) as client:
        workers = Workers(
            tmp_path,
            f"redis://127.0.0.1:{proxy.port}/0",
            *queues,
            STATE_URL=f"redis://127.0.0.1:{proxy.port}/1",
            WORKER_CONCURRENCY="2",
        )
        with workers.one() as worker:
            wait_until(lambda: len(client.keys("*:__queues__.*")) == 1)
            wait_until(lambda: _queues(client) == len(queues))
            proxy.swallow()
            asked = time.monotonic()
            worker.send_signal(signal.SIGTERM)
            worker.wait(timeout=70)
            took = time.monotonic() - asked
    assert took < 30, f"{took:.1f} s"


def _queues(client: redis.Redis) -> int:
    return sum(int(client.scard(key)) for key in client.keys("*:__queues__.*"))  # type: ignore
