"""What a worker process writes: log lines, and what actors and libraries print.

All of it becomes log lines, since a program reads the output line by line.
"""

from __future__ import annotations

import atexit
import io
import logging
import sys
import threading
from collections.abc import Callable
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Any

from ...config import LoggingSettings
from ...core.clock import SYSTEM_CLOCK, iso
from ...core.failure import worker_name
from ...core.log_fields import LEVEL, LOGGER, MESSAGE, TIME, WORKER
from ...core.log_handler import LineHandler
from ...core.log_writer import LogWriter
from ..logs import Encode, encoder, setup_logging

logger = logging.getLogger("formrelay.workers")

#: A longer line that is printed becomes several log lines; in characters.
_MAX_LINE = 16_384


def setup_worker_output(settings: LoggingSettings) -> None:
    """Set up logs as :func:`.logs.setup_logging` does, and make all other output log lines.

    Does the latter only in a process that Dramatiq's command line started. Can be called again,
    with other settings.
    """
    root = logging.getLogger()
    encode = encoder(settings)
    send = _sender(sys.stderr)
    if send is not None:
        # Dramatiq's handler, and that of its main process, from which this process was forked.
        for handler in [each for each in root.handlers if _writes_to(each, sys.stderr)]:
            root.removeHandler(handler)
        root.addHandler(_line_handler(send, encode))
        sys.stdout, sys.stderr = Printed("stdout", logging.INFO), Printed("stderr", logging.ERROR)
        log_unexpected_errors()
    setup_logging(settings)
    for handler in root.handlers:
        if isinstance(handler, LineHandler):
            handler.encode = encode


def log_unexpected_errors() -> None:
    """Make log lines of warnings, and of errors that nobody catches."""
    logging.captureWarnings(True)
    sys.excepthook, threading.excepthook = _log_error, _log_thread_error
    sys.unraisablehook = _log_unraisable_error


def is_worker_process() -> bool:
    """Whether Dramatiq's command line started this process, and its output is not set up yet."""
    return _sender(sys.stderr) is not None


def close_worker_output() -> None:
    """Write the lines of the buffer; from now on each line is written at once."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LineHandler):
            handler.writer.close()


class Printed(io.TextIOBase):
    """A stream that makes a log line of each line that is printed.

    Args:
        name: of the logger.
    """

    def __init__(self, name: str, level: int) -> None:
        self._logger = logging.getLogger(name)
        self._level = level
        self._rest = threading.local()  # print() writes the text and its line break one by one

    def write(self, text: str) -> int:
        *lines, rest = (getattr(self._rest, "text", "") + text).split("\n")
        if len(rest) > _MAX_LINE:
            lines, rest = [*lines, rest], ""
        self._rest.text = rest
        for line in lines:
            for start in range(0, len(line), _MAX_LINE):
                if part := line[start : start + _MAX_LINE].rstrip():
                    self._logger.log(self._level, "%s", part)
        return len(text)

    def writable(self) -> bool:
        return True


def _writes_to(handler: logging.Handler, stream: Any) -> bool:
    if type(handler) is not logging.StreamHandler:
        return False
    return handler.stream in (stream, sys.__stderr__)


def _sender(stream: Any) -> Callable[[bytes], None] | None:
    """The function that writes to the pipe of Dramatiq's main process, if ``stream`` is that."""
    return getattr(getattr(stream, "pipe", None), "send_bytes", None)


def _line_handler(send: Callable[[bytes], None], encode: Encode) -> LineHandler:
    def dropped_line(count: int) -> bytes:
        fields = {
            TIME: iso(SYSTEM_CLOCK.time()),
            LEVEL: "WARNING",
            WORKER: worker_name(),
            LOGGER: logger.name,
            MESSAGE: "dropped log lines: nobody reads them fast enough",
            "lines": count,
        }
        return handler.encode(fields)

    handler = LineHandler(LogWriter(send, dropped_line), encode)
    # A process of multiprocessing, as Dramatiq's are, does not run what atexit registers.
    Finalize(None, handler.writer.close, exitpriority=0)
    atexit.register(handler.writer.close)
    return handler


def _log_error(
    kind: type[BaseException], error: BaseException, places: TracebackType | None
) -> None:
    logger.critical("unexpected error", exc_info=(kind, error, places))


def _log_unraisable_error(about: sys.UnraisableHookArgs) -> None:
    if about.exc_value is None:
        return
    error = (about.exc_type, about.exc_value, about.exc_traceback)
    # Python's own line shows the object, whose repr may quote a payload value.
    logger.error("unexpected error in a destructor or a callback", exc_info=error)


def _log_thread_error(about: threading.ExceptHookArgs) -> None:
    if about.exc_value is None or about.exc_type is SystemExit:
        return
    name = about.thread.name if about.thread else None
    error = (about.exc_type, about.exc_value, about.exc_traceback)
    logger.critical("unexpected error in the thread %s", name, exc_info=error)
