"""A suite with a test for each kind of server."""

from __future__ import annotations

import pytest


def test_redis(redis_url: str) -> None:
    pass


@pytest.mark.parametrize("broker", [pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def test_contract(broker: str) -> None:
    pass


@pytest.mark.clickhouse
def test_clickhouse() -> None:
    pass
