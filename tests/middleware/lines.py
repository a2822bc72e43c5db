"""Captures all log lines in their final format."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from formrelay.config import LoggingSettings
from formrelay.ops.logs import setup_logging


class Lines(logging.Handler):
    """Every log line of the process, formatted as JSON for operators."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def attempts(self) -> list[dict[str, Any]]:
        """The lines that log an attempt."""
        return self.of("attempt")

    def of(self, message: str) -> list[dict[str, Any]]:
        """The lines with a message."""
        lines = [orjson.loads(text) for text in list(self.texts)]
        return [line for line in lines if line["msg"] == message]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """All log lines, including those of Dramatiq, at level DEBUG."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    handler = Lines()
    root.handlers[:] = [handler]
    setup_logging(LoggingSettings(level="DEBUG"))
    yield handler
    root.handlers[:] = before[0]
    root.setLevel(before[1])
