"""The log handler of a worker process: every line goes through a :class:`.log_writer.LogWriter`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from .clock import iso
from .errors import describe
from .failure import worker_name
from .log_fields import LEVEL, LOGGER, MESSAGE, TIME, WORKER
from .log_writer import LogWriter


class LineHandler(logging.Handler):
    """Writes records, and lines of which only the fields are given.

    Args:
        writer: gets the lines.
        encode: makes a line, with its line break, of the fields of a line.
    """

    def __init__(self, writer: LogWriter, encode: Callable[[Mapping[str, Any]], bytes]) -> None:
        super().__init__()
        self.writer = writer
        self.encode = encode

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # the default prints the arguments, which may be personal data
            fields = {"errorMessage": describe(error)}
            self.write_fields(logging.ERROR, record.name, "a log line cannot be written", fields)
        else:
            self._write(record.levelno, f"{line}\n".encode("utf-8", "backslashreplace"))

    def write_fields(
        self, level: int, logger: str, message: str, fields: Mapping[str, Any]
    ) -> None:
        """Write one line without a :class:`logging.LogRecord`, which would take most of the time.

        Args:
            fields: further fields of the line, with their public names.
        """
        line: dict[str, Any] = {
            TIME: iso(time.time()),
            LEVEL: logging.getLevelName(level),
            WORKER: worker_name(),
            LOGGER: logger,
            MESSAGE: message,
        }
        self._write(level, self.encode({**line, **fields}))

    def flush(self) -> None:
        self.writer.flush()

    def _write(self, level: int, line: bytes) -> None:
        self.writer.write(line)
        if level >= logging.ERROR:
            self.writer.flush()


def only_handler(logger: logging.Logger) -> LineHandler | None:
    """Return the :class:`LineHandler` if all records of ``logger`` reach it and no other."""
    if logger.filters:
        return None
    found: logging.Handler | None = None
    each: logging.Logger | None = logger
    while each is not None:
        for handler in each.handlers:
            if found is not None:
                return None
            found = handler
        each = each.parent if each.propagate else None
    if not isinstance(found, LineHandler) or found.filters or found.level:
        return None
    return found
