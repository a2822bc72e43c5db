"""Workers of webhooks are killed or stopped: each endpoint gets every webhook-id."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.actors.receiver import Answer, Receiver, receiving
from tests.faults.workers import Workers, kill
from tests.support.brokers import BROKERS
from tests.support.waiting import wait_until

COUNT = 400


@pytest.fixture(params=BROKERS)
def workers(request: pytest.FixtureRequest, tmp_path: Path) -> Workers:
    return Workers(
        tmp_path,
        request.getfixturevalue(request.param),
        "WEBHOOK_QUEUE",
        WORKER_CONCURRENCY="8",
        WEBHOOK_ALLOW_HTTP="true",
        WEBHOOK_ALLOWED_PRIVATE_CIDRS="127.0.0.0/8",
        WEBHOOK_DELIVERY_LOG="false",
    )


def ids(receiver: Receiver) -> Counter[str]:
    return Counter(request.headers["webhook-id"] for request in receiver.requests)


@pytest.mark.slow
def test_a_killed_worker_loses_no_webhook_and_repeats_few(workers: Workers) -> None:
    with receiving() as receiver:
        for path in range(20):
            receiver.answers(f"/{path}", then=Answer(200, after=0.05))
        workers.send("webhooks", receiver.url, str(COUNT))
        with workers.one() as first, workers.one():
            wait_until(lambda: len(receiver.requests) >= 50)
            kill(first)
            wait_until(lambda: len(ids(receiver)) == COUNT)
        found = ids(receiver)
    assert sorted(found) == sorted(f"id_{number}" for number in range(COUNT))
    # Repeated are the eight webhooks in flight, and those that were delivered but not yet settled.
    assert sum(found.values()) - COUNT <= 24


@pytest.mark.slow
def test_a_stopped_worker_repeats_no_webhook(workers: Workers) -> None:
    with receiving() as receiver:
        for path in range(20):
            receiver.answers(f"/{path}", then=Answer(200, after=0.05))
        workers.send("webhooks", receiver.url, str(COUNT))
        with workers.one():
            wait_until(lambda: len(receiver.requests) >= 50)
        assert len(receiver.requests) < COUNT
        with workers.one():
            wait_until(lambda: len(ids(receiver)) == COUNT)
        found = ids(receiver)
    assert set(found.values()) == {1}, json.dumps(found.most_common(5))
