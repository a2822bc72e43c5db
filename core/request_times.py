"""Counts the requests to outside systems and their durations, for metrics.

The clients of the sinks call :func:`timed` around each request. They know nothing of metrics: this
module only counts, and the counts are read where metrics are made.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Literal, TypeAlias

from .durations import BIN_COUNT, BIN_ENDS
from .errors import NotNow, SinkBusy, SinkPermanent, SinkUnavailable, SinkUnready

Sink: TypeAlias = Literal["api", "clickhouse", "smtp", "sheets", "webhook"]
#: ``ok``; ``refused``: it will never accept the request; ``busy``: overloaded, or a limit is
#: reached; ``unready``: an operator has to act; ``unavailable``: no connection; ``failed``: any
#: other error, such as a response that did not come in time.
Result: TypeAlias = Literal["ok", "refused", "busy", "unready", "unavailable", "failed"]

_lock = Lock()
#: The sum in seconds, then the bins of the durations, by sink and result.
_counts: dict[tuple[str, str], list[float]] = {}


@contextmanager
def timed(sink: Sink) -> Iterator[None]:
    """Count a request and its duration; its result is by the error that the block raises.

    Works around ``await`` too.
    """
    start = time.monotonic()
    try:
        yield
    except BaseException as error:
        count_request(sink, result_of(error), time.monotonic() - start)
        raise
    count_request(sink, "ok", time.monotonic() - start)


def count_request(sink: Sink, result: Result, seconds: float) -> None:
    """Count one request."""
    with _lock:
        row = _counts.get((sink, result))
        if row is None:
            row = _counts[sink, result] = [0.0] * (1 + BIN_COUNT)
        row[0] += seconds
        row[1 + bisect_left(BIN_ENDS, seconds)] += 1


def result_of(error: BaseException) -> Result:
    """The result of a request that failed with ``error``."""
    match error:
        case SinkPermanent():
            return "refused"
        case SinkBusy() | NotNow():
            return "busy"
        case SinkUnready():
            return "unready"
        case SinkUnavailable():
            return "unavailable"
        case _:
            return "failed"


def request_counts() -> dict[tuple[str, ...], list[float]]:
    """Return the counts of this process by sink and result: the sum, then the bins."""
    with _lock:
        return {key: list(row) for key, row in _counts.items()}


def _in_child() -> None:
    global _lock
    _lock = Lock()  # another thread of the parent may have held it
    _counts.clear()


os.register_at_fork(after_in_child=_in_child)
