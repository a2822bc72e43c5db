"""Structured logs: one JSON object a line, and no payload value in any."""

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

#: Their lines are about connections, never about a job; pika tells one lost connection in
#: a dozen errors with tracebacks, where our own line says it once.
_QUIET = {"pika": logging.CRITICAL, "clickhouse_connect": logging.ERROR, "urllib3": logging.ERROR}


class _Formatter(OrjsonFormatter):
    """JSON with our names; of an exception only what :func:`describe` allows."""

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Time, level, logger and message, then what was said beside them.

        The base class looks each name up in its renames and formats; a line an attempt is
        written, so that is half the price of a line.
        """
        log_data["time"] = record.asctime
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        log_data["message"] = record.message
        skipped = self._skip_fields
        said = {name: value for name, value in record.__dict__.items() if name not in skipped}
        log_data.update(said, **message_dict)

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        try:
            line = super().jsonify_log_record(log_data)
        except TypeError:  # half a surrogate pair, or an integer of more than 64 bits
            line = json.dumps(log_data, default=str)
        # JSON itself escapes C0 alone, and lines are read on terminals.
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

    Dramatiq's command line has set up a handler that writes into its own pipe;
    it is kept, and only its format changes.
    """
    # A third of a line's price, for what no line of ours says: who called, in which thread of
    # which process (docs.python.org, Logging HOWTO, Optimization).
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
