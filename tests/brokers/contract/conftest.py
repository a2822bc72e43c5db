"""Fixtures of the contract: every test in this folder runs on every broker."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from formrelay.brokers.base import RelayBroker
from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.embedded import ensure_running, release
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.redis.broker import RedisBroker
from tests.support.harness import Harness, flush_embedded
from tests.support.waiting import wait_until

OPTIONS = BrokerOptions(heartbeat_timeout=timedelta(seconds=1), max_message_bytes=10_000)


@pytest.fixture(scope="session")
def embedded_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = Path(tmp_path_factory.mktemp("embedded"))
    yield ensure_running(folder)
    release(folder)
    wait_until(lambda: not (folder / "valkey" / "valkey.sock").exists())


@pytest.fixture(
    params=[
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
        pytest.param("embedded", marks=pytest.mark.embedded),
    ]
)
def broker(request: pytest.FixtureRequest) -> RelayBroker:
    match request.param:
        case "redis":
            return RedisBroker(request.getfixturevalue("redis_url"), options=OPTIONS)
        case "rabbitmq":
            return RabbitBroker(request.getfixturevalue("rabbitmq_url_of_module"), options=OPTIONS)
        case _:
            url = request.getfixturevalue("embedded_url")
            flush_embedded(url)
            return RedisBroker(url, options=OPTIONS)


@pytest.fixture
def harness(broker: RelayBroker, unique: str) -> Iterator[Harness]:
    harness = Harness(broker, unique)
    yield harness
    harness.close()
