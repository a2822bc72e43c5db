"""An embedded broker for the tests of middleware, started once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from formrelay.brokers.redis.broker import RedisBroker
from tests.middleware.embedded import embedded_server
from tests.middleware.lines import lines
from tests.support.harness import Harness, flush_embedded

__all__ = ["lines"]


@pytest.fixture(scope="session")
def middleware_broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedded_server(Path(tmp_path_factory.mktemp("embedded"))) as url:
        yield url


@pytest.fixture
def harness(middleware_broker_url: str, unique: str) -> Iterator[Harness]:
    flush_embedded(middleware_broker_url)
    harness = Harness(RedisBroker(middleware_broker_url), unique)
    yield harness
    harness.close()
