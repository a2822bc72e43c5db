"""A real broker and worker for the middleware: the embedded one, started once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.support.harness import Harness, flush_embedded

from formrelay.brokers.embedded import ensure_running
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.config import LoggingSettings
from formrelay.ops.logs import setup_logging


@pytest.fixture(scope="session")
def middleware_broker_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return ensure_running(Path(tmp_path_factory.mktemp("embedded")))


@pytest.fixture
def harness(middleware_broker_url: str, unique: str) -> Iterator[Harness]:
    flush_embedded(middleware_broker_url)
    harness = Harness(RedisBroker(middleware_broker_url), unique)
    yield harness
    harness.close()


class Lines(logging.Handler):
    """Every log line of the process, as an operator would see it: JSON by our formatter."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def attempts(self) -> list[dict[str, Any]]:
        """The one wide line of each attempt."""
        lines = [orjson.loads(text) for text in list(self.texts)]
        return [line for line in lines if line["message"] == "attempt"]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """All that is logged, Dramatiq's own loggers at DEBUG included."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    handler = Lines()
    root.handlers[:] = [handler]
    setup_logging(LoggingSettings(level="DEBUG"))
    yield handler
    root.handlers[:] = before[0]
    root.setLevel(before[1])
