"""Makes rows of jobs."""

from __future__ import annotations

from typing import Any

from formrelay.sinks.sheets import Rows, parse_range

_OPTIONS = ("row_key", "is_doubtful", "is_update")


def answers(key: str, range: str = "Answers", /, **values: Any) -> Rows:
    """A job with answers."""
    options = {name: values.pop(name) for name in _OPTIONS if name in values}
    return Rows(key, parse_range(range), answers=values, **options)


def values(key: str, *lines: list[Any], range: str = "Answers", **options: Any) -> Rows:
    """A job with rows of values."""
    return Rows(key, parse_range(range), values=lines, **options)
