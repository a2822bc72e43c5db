"""Structured logs: one JSON object per line, without payload values."""

from __future__ import annotations

import json
import logging
from types import TracebackType
from typing import Any

from pythonjsonlogger.orjson import OrjsonFormatter

from ..config import LoggingSettings
from ..core.clock import iso
from ..core.errors import describe
from ..core.failure import frames
from ..core.printable import printable_json

#: Minimum levels of libraries that log about connections only. pika logs a dozen errors with
#: tracebacks for one lost connection, which we log once.
_QUIET = {"pika": logging.CRITICAL, "clickhouse_connect": logging.ERROR, "urllib3": logging.ERROR}


class _Formatter(OrjsonFormatter):
    """JSON with our field names; exceptions are reduced to what :func:`describe` allows."""

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Add time, level, logger and message, then the extra fields.

        Replaces the base class's lookup of renames and formats, which takes half of the time to
        write a line; every attempt writes one.
        """
        log_data["time"] = record.asctime
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        log_data["message"] = record.message
        skipped = self._skip_fields
        extra = {name: value for name, value in record.__dict__.items() if name not in skipped}
        log_data.update(extra, **message_dict)

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        try:
            line = super().jsonify_log_record(log_data)
        except TypeError:  # a lone surrogate, or an integer of more than 64 bits
            line = json.dumps(log_data, default=str)
        # JSON escapes only C0 control characters, and people read logs on terminals.
        return printable_json(line)

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

    Keeps the handler of Dramatiq's command line, which writes into its own pipe.
    """
    # Caller, thread and process are not logged; collecting them takes a third of the time to
    # write a line (docs.python.org, Logging HOWTO, Optimization).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler())
    formatter = _Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    for handler in root.handlers:
        handler.setFormatter(formatter)
    root.setLevel(settings.effective_level)
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
