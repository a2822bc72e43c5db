"""Fixtures of Dramatiq's own tests, with formrelay's brokers in place of Dramatiq's.

``scripts/dramatiq-conformance`` copies Dramatiq's tests and lets them use this module instead of
their ``conftest.py``. FORMRELAY_CONFORMANCE_BROKER says which broker they get.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import partial

import dramatiq
import pytest
import redis
from dramatiq import Worker
from dramatiq.rate_limits import RateLimiterBackend
from dramatiq.rate_limits import backends as rate_limiters
from dramatiq.results import ResultBackend
from dramatiq.results import backends as results

from formrelay.brokers.base import RelayBroker
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.redis.broker import RedisBroker
from tests.conftest import (  # noqa: F401
    rabbitmq_url,
    rabbitmq_url_of_module,
    redis_url,
    unique,
    vhost_remover,
)

#: Fixtures that are brokers or workers in Dramatiq's tests, by their broker there.
PARTS = {
    "stub": {"stub_broker", "stub_worker"},
    "redis": {"redis_broker", "redis_worker"},
    "rabbitmq": {"rabbitmq_broker", "rabbitmq_worker"},
}
KIND = os.environ.get("FORMRELAY_CONFORMANCE_BROKER", "redis")
THREADS = 32
#: Milliseconds that a test waits for an empty queue, unless it says how long.
JOIN_MS = 20_000

logging.basicConfig(level=logging.INFO)
logging.getLogger("pika").setLevel(logging.WARNING)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the tests that use a broker which formrelay's broker stands for."""
    wanted = PARTS["stub"] | PARTS[KIND]
    others = set().union(*PARTS.values()) - wanted
    kept = []
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if names & wanted and not names & others:
            kept.append(item)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture
def relay_broker(request: pytest.FixtureRequest) -> Iterator[RelayBroker]:
    """The broker under test, with empty queues of its own."""
    broker: RelayBroker
    if KIND == "redis":
        broker = RedisBroker(request.getfixturevalue("redis_url"))
    else:
        broker = RabbitBroker(request.getfixturevalue("rabbitmq_url"), max_priority=10)
    # Some tests join a queue whose job was deferred here, though it would have failed there.
    broker.join = partial(broker.join, timeout=JOIN_MS)  # type: ignore[method-assign]
    broker.emit_after("process_boot")
    dramatiq.set_broker(broker)
    yield broker
    broker.flush_all()
    broker.close()


@pytest.fixture
def relay_worker(relay_broker: RelayBroker) -> Iterator[Worker]:
    """A running worker of the broker under test."""
    worker = Worker(relay_broker, worker_timeout=100, worker_threads=THREADS)
    worker.start()
    yield worker
    worker.stop()


@pytest.fixture
def stub_broker(relay_broker: RelayBroker) -> RelayBroker:
    # As that of the broker that it stands for.
    relay_broker.fail_fast_default = True  # type: ignore[attr-defined]
    return relay_broker


@pytest.fixture
def redis_broker(relay_broker: RelayBroker) -> RelayBroker:
    return relay_broker


@pytest.fixture
def rabbitmq_broker(relay_broker: RelayBroker) -> RelayBroker:
    return relay_broker


@pytest.fixture
def stub_worker(relay_worker: Worker) -> Worker:
    return relay_worker


@pytest.fixture
def redis_worker(relay_worker: Worker) -> Worker:
    return relay_worker


@pytest.fixture
def rabbitmq_worker(relay_worker: Worker) -> Worker:
    return relay_worker


@pytest.fixture
def info_logging() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.INFO)
    yield
    root.setLevel(level)


@pytest.fixture
def backends_url() -> str:
    """A database for Dramatiq's own backends, beside the broker's, emptied."""
    url = os.environ["FORMRELAY_TEST_REDIS_URL"].rstrip("/").removesuffix("/0") + "/1"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def rate_limiter_backends(backends_url: str) -> dict[str, RateLimiterBackend]:
    return {
        "redis": rate_limiters.RedisBackend(url=backends_url),
        "stub": rate_limiters.StubBackend(),
    }


@pytest.fixture(params=["redis", "stub"])
def rate_limiter_backend(
    request: pytest.FixtureRequest, rate_limiter_backends: dict[str, RateLimiterBackend]
) -> RateLimiterBackend:
    return rate_limiter_backends[request.param]


@pytest.fixture
def redis_result_backend(backends_url: str) -> ResultBackend:
    return results.RedisBackend(url=backends_url)


@pytest.fixture
def stub_result_backend() -> ResultBackend:
    return results.StubBackend()


@pytest.fixture
def result_backends(
    redis_result_backend: ResultBackend, stub_result_backend: ResultBackend
) -> dict[str, ResultBackend]:
    return {"redis": redis_result_backend, "stub": stub_result_backend}


@pytest.fixture(params=["redis", "stub"])
def result_backend(
    request: pytest.FixtureRequest, result_backends: dict[str, ResultBackend]
) -> ResultBackend:
    return result_backends[request.param]
