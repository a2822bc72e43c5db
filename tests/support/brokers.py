"""Parameters for tests that run once on each broker."""

from __future__ import annotations

import pytest

_REDIS = pytest.param("redis_url", marks=pytest.mark.redis, id="redis")
#: The fixtures with the brokers' URLs.
BROKERS = (_REDIS, pytest.param("rabbitmq_url", marks=pytest.mark.rabbitmq, id="rabbitmq"))
#: Likewise, for tests that also need a Redis for shared state.
BROKERS_AND_STATE = (
    _REDIS,
    pytest.param("rabbitmq_url", marks=[pytest.mark.rabbitmq, pytest.mark.redis], id="rabbitmq"),
)
