"""Structured logs: one JSON object a line, and no payload value in any."""

from __future__ import annotations

import logging
from types import TracebackType

from pythonjsonlogger.json import JsonFormatter

from ..config import LoggingSettings
from ..core.clock import iso
from ..core.errors import describe
from ..core.failure import frames

#: Their lines are about connections, never about a job; pika tells one lost connection in
#: a dozen errors with tracebacks, where our own line says it once.
_QUIET = {"pika": logging.CRITICAL, "clickhouse_connect": logging.ERROR, "urllib3": logging.ERROR}


class _Formatter(JsonFormatter):
    """JSON with our names; of an exception only what :func:`describe` allows."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return iso(record.created)

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        error = ei[1]
        if error is None:
            return ""
        return " < ".join([describe(error), *reversed(frames(error))])


def setup_logging(settings: LoggingSettings) -> None:
    """Make every handler of the root logger write JSON at the configured level.

    Dramatiq's command line has set up a handler that writes into its own pipe;
    it is kept, and only its format changes.
    """
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler())
    formatter = _Formatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
    )
    for handler in root.handlers:
        handler.setFormatter(formatter)
    root.setLevel(settings.effective_level)
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
