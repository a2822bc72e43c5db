"""Fixtures of the tests for Redis only, beside the contract of all brokers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from formrelay.brokers.redis.broker import RedisBroker
from tests.support.harness import Harness


@pytest.fixture
def broker(redis_url: str) -> RedisBroker:
    return RedisBroker(redis_url)


@pytest.fixture
def harness(broker: RedisBroker, unique: str) -> Iterator[Harness]:
    harness = Harness(broker, unique)
    yield harness
    harness.close()
