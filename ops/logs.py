"""Structured logs: one JSON object per line, without payload values; on a terminal, text."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any

from pythonjsonlogger.orjson import OrjsonFormatter

from ..config import LoggingSettings
from ..core.clock import iso
from ..core.disclosure import DEFAULT, Detail, Disclosure
from ..core.failure import frames, worker_name
from ..core.json_lines import as_json
from ..core.log_fields import JOB_ID, LEVEL, LOGGER, MESSAGE, TIME, WORKER, public_name
from ..middleware.causes import disclosure_here, job_here
from .log_text import as_text

#: Minimum levels of libraries that log about connections only. pika logs a dozen errors with
#: tracebacks for one lost connection, which we log once.
_QUIET = {"pika": logging.CRITICAL, "clickhouse_connect": logging.ERROR, "urllib3": logging.ERROR}

#: Where python-json-logger puts the exception of a record.
EXCEPTION = "exc_info"

#: Makes a line, with its line break, of the fields of a line.
Encode = Callable[[Mapping[str, Any]], bytes]


class LineFormatter(OrjsonFormatter):
    """Our field names; exceptions are reduced to the details that may be written.

    Args:
        disclosure: what may be written about exceptions outside of attempts.
    """

    def __init__(self, encode: Encode = as_json, disclosure: Disclosure = DEFAULT) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")
        self.encode = encode
        self._disclosure = disclosure

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Add the fields of every line, then the extra fields.

        Replaces the base class's lookup of renames and formats, which takes half of the time to
        write a line.
        """
        log_data[TIME] = record.asctime
        log_data[LEVEL] = record.levelname
        log_data[WORKER] = worker_name()
        log_data[LOGGER] = record.name
        log_data[MESSAGE] = _without_repr(record)
        if (job := job_here()) is not None:
            log_data["actor"], id = job
            log_data |= {} if id is None else {JOB_ID: id}
        skipped = self._skip_fields
        extra = {name: value for name, value in record.__dict__.items() if name not in skipped}
        if record.name.startswith("formrelay"):  # the names of others are theirs
            extra = {public_name(name): value for name, value in extra.items()}
        if EXCEPTION in message_dict:
            extra[public_name(EXCEPTION)] = message_dict.pop(EXCEPTION)
        log_data.update(extra, **message_dict)

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        return self.encode(log_data)[:-1].decode()

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
        disclosure = disclosure_here() or self._disclosure
        return " < ".join(
            [disclosure.brief(error), *(reversed(frames(error)) if disclosure.has_places else ())]
        )


def _without_repr(record: logging.LogRecord) -> str:
    """The message; of asyncio's about an error, only the first line.

    The other lines are the ``repr`` of a task or future, with the text of its exception.
    """
    is_of_asyncio = record.name == "asyncio" and record.levelno >= logging.ERROR
    return record.message.partition("\n")[0] if is_of_asyncio else record.message


def setup_logging(settings: LoggingSettings) -> None:
    """Make every handler of the root logger write our lines at the configured level.

    Keeps the handlers that exist, such as that of Dramatiq's command line.
    """
    # Caller, thread and process are not logged; collecting them takes a third of the time to
    # write a line (docs.python.org, Logging HOWTO, Optimization).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler())
    disclosure = Disclosure(Detail(settings.exceptions)) if settings.exceptions else DEFAULT
    formatter = LineFormatter(encoder(settings), disclosure)
    for handler in root.handlers:
        handler.setFormatter(formatter)
    root.setLevel(settings.effective_level)
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)


def encoder(settings: LoggingSettings) -> Encode:
    """The format of lines: JSON, or text if people read them on a terminal, there with colours."""
    is_text = settings.format == "text" or (settings.format == "auto" and _is_terminal())
    if not is_text:
        return as_json
    return partial(as_text, color=not settings.no_color and _is_terminal())


def _is_terminal() -> bool:
    """Whether the lines go to a terminal.

    The lines of a worker process go to the main process of ``dramatiq``, which writes them to the
    standard error that both share, or to its ``--log-file``.
    """
    if any(argument.split("=")[0] == "--log-file" for argument in sys.argv[1:]):
        return False
    try:
        return os.isatty(2)
    except OSError:
        return False
