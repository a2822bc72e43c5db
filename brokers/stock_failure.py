"""Reads the failure that stock Dramatiq's retries leave in a message."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from dramatiq import Message

from ..core.clock import iso
from ..core.failure import Failure, Reason, short_path
from ..middleware.delivery import RETRIES

_BEGIN = "Traceback (most recent call last):"
_FRAME = re.compile(r'^  File "([^"\n]+)", line (\d+), in (\S+)$', re.MULTILINE)
#: The line after the last frame and its source: the type of the error, and its text.
_ERROR = re.compile(r"^([A-Za-z_][\w.]*)(?::|$)", re.MULTILINE)
#: Maximum number of stack frames, the innermost last.
_MAX_FRAMES = 6


def stock_failure(message: Message[Any], died: float | None) -> Failure | None:
    """Return the last error that stock Dramatiq recorded; None if there is none.

    The record has the type and the places of the error. Its text may have values of the job.

    Args:
        died: when the message was dead-lettered, Unix seconds.
    """
    trace = message.options.get("traceback")
    if not isinstance(trace, str):
        return None
    last = trace[max(0, trace.rfind(f"\n{_BEGIN}")) :]  # the errors before it are its causes
    frames = [*_FRAME.finditer(last)]
    error = _ERROR.search(last, frames[-1].end()) if frames else None
    if error is None:
        return None
    retries = message.options.get(RETRIES)
    return Failure(
        reason=Reason.REJECTED,
        error=error[1],
        message=f"dead-lettered by stock Dramatiq after {error[1]}",
        at="" if died is None else iso(died),
        attempt=retries if isinstance(retries, int) else 0,
        worker="",
        where=tuple(
            f"{short_path(frame[1])}:{frame[2]} {frame[3]}" for frame in frames[-_MAX_FRAMES:]
        ),
    )


def with_stock_error(failure: Failure, message: Message[Any]) -> Failure:
    """Add the error that stock Dramatiq recorded to the failure of a message that it rejected."""
    found = stock_failure(message, None) if failure.reason is Reason.REJECTED else None
    if found is None:
        return failure
    text = f"{failure.message} after {found.error}"
    return replace(failure, error=found.error, message=text, where=found.where)
