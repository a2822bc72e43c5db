"""Log lines as text, for people at a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..core.log_fields import (
    DURATION,
    ERROR_MESSAGE,
    ERROR_TYPE,
    JOB_ID,
    LEVEL,
    LOGGER,
    MESSAGE,
    TIME,
    WORKER,
)
from ..core.printable import printable

#: The styles of levels, as numbers of ANSI escape sequences.
_STYLES = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_DIM = "2"
#: The fields that have a place of their own in the text, or none.
_PLACED = {TIME, LEVEL, WORKER, LOGGER, MESSAGE}
#: The same in the line of an attempt.
_PLACED_OF_ATTEMPT = _PLACED | {"actor", "outcome", "attempt", DURATION}
#: The first of the other fields, in this order.
_FIRST = (ERROR_TYPE, ERROR_MESSAGE, "queue", JOB_ID)


def as_text(fields: Mapping[str, Any], *, color: bool = True) -> bytes:
    """Format a line: time of day in UTC, level, what happened, and the other fields.

    Control characters in the fields are escaped.

    Example: ``09:30:00.125 INFO    done save_submission 41.3 ms  queue=submissions jobId=…``
    """
    level = str(fields.get(LEVEL, ""))

    def styled(text: str, style: str | None) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if color and style else text

    time = printable(str(fields.get(TIME, ""))[11:23])
    head = f"{styled(time, _DIM)} {styled(f'{printable(level):<8}', _STYLES.get(level))}"
    placed = _PLACED_OF_ATTEMPT if _is_attempt(fields) else _PLACED
    others = [name for name in fields if name not in placed and name not in _FIRST]
    names = [name for name in _FIRST if name in fields] + others
    rest = " ".join(
        f"{styled(printable(f'{name}='), _DIM)}{_value(fields[name])}" for name in names
    )
    return f"{head} {_what(fields)}  {rest}".rstrip().encode("utf-8", "backslashreplace") + b"\n"


def _is_attempt(fields: Mapping[str, Any]) -> bool:
    return "outcome" in fields and "actor" in fields


def _what(fields: Mapping[str, Any]) -> str:
    if not _is_attempt(fields):
        return printable(str(fields.get(MESSAGE, "")))
    text = f"{fields['outcome']:<5} {fields['actor']}"
    if fields.get("attempt", 1) != 1:
        text += f", attempt {fields['attempt']}"
    return printable(f"{text} {fields.get(DURATION, 0)} ms")


def _value(value: Any) -> str:
    if isinstance(value, str):
        text = printable(value)
        return json.dumps(text, ensure_ascii=False) if not text or " " in text else text
    return printable(json.dumps(value, default=str))
