"""Tracebacks as text."""

from __future__ import annotations

import traceback


def traceback_text(error: BaseException, limit: int | None = None) -> str:
    """The traceback of an error and of its causes, as Python prints it.

    Python before 3.11.8 parses lines of code for it, and raises SystemError if the garbage
    collector runs a finalizer that parses code too (cpython 106905). The text then has places
    and messages, without lines of code.
    """
    try:
        return "".join(traceback.format_exception(error, limit=limit))
    except SystemError:
        return "".join(_without_code(error, limit, set()))


def _without_code(error: BaseException, limit: int | None, seen: set[int]) -> list[str]:
    seen.add(id(error))
    cause = error.__cause__ or error.__context__
    lines = []
    if cause is not None and id(cause) not in seen:
        lines = _without_code(cause, limit, seen)
    lines.append("Traceback (most recent call last):\n")
    for frame in traceback.extract_tb(error.__traceback__, limit):
        lines.append(f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}\n')
    return lines + traceback.format_exception_only(error)
