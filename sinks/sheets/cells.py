"""Converts values of a job to typed cells.

A text is always a ``stringValue``, which Google never reads as a formula, number or date. Dates are
serial numbers (days since 1899-12-30) with a number format.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from ...core.errors import InvalidJob

#: Maximum length of a cell, in UTF-16 units.
MAX_CHARACTERS = 50_000
#: Larger integers are texts: a number in a cell is a double.
_LARGEST = 2**53
_EPOCH = datetime(1899, 12, 30)
_DATE = re.compile(r"\d{4}-\d\d-\d\d\Z", re.ASCII)
_DATETIME = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?\Z", re.ASCII
)
_FORMATS = {"DATE": "yyyy-mm-dd", "DATE_TIME": "yyyy-mm-dd hh:mm:ss"}

Cell = dict[str, Any]


def make_cell(value: object, zone: tzinfo = UTC) -> Cell:
    """Convert a value to a ``CellData``.

    Args:
        value: a value of JSON, or a date. Text in ISO 8601 (``2026-01-31``,
            ``2026-01-31T09:30:00Z``) is a date too. A list of plain values becomes text with
            commas; other lists and objects become JSON.
        zone: time zone of the spreadsheet, in which times are shown.

    Raises:
        InvalidJob: the text is longer than a cell allows.
    """
    match value:
        case None:
            return {}
        case bool():
            return {"userEnteredValue": {"boolValue": value}}
        case int() if abs(value) <= _LARGEST:
            return {"userEnteredValue": {"numberValue": value}}
        case float() if math.isfinite(value):
            return {"userEnteredValue": {"numberValue": value}}
        case date():
            return _date_cell(value, zone)
        case str():
            moment = _parse_date(value)
            return _text_cell(value) if moment is None else _date_cell(moment, zone)
    return _text_cell(_as_text(value))


def make_row(values: Iterable[object], zone: tzinfo = UTC) -> list[Cell]:
    """Convert values to the cells of a row.

    Raises:
        InvalidJob: see :func:`make_cell`; the error names the position of the value.
    """
    cells = []
    for number, value in enumerate(values, 1):
        try:
            cells.append(make_cell(value, zone))
        except InvalidJob as error:
            error.reword(f"value {number}: {error}")
            raise
    return cells


def has_format(cells: Iterable[Cell]) -> bool:
    """Whether a cell has a number format."""
    return any("userEnteredFormat" in cell for cell in cells)


def time_zone(name: str) -> tzinfo:
    """The time zone of a spreadsheet; UTC if this machine does not know it."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # Google also writes GMT-03:00
        return _offset(name)


def _offset(name: str) -> tzinfo:
    match = re.match(r"(?:GMT|UTC)([+-]\d\d):?(\d\d)\Z", name)
    if not match:
        return UTC
    parsed = datetime.strptime(f"{match[1]}{match[2]}", "%z")
    return parsed.tzinfo or UTC


def _text_cell(text: str) -> Cell:
    text = text.encode("utf-8", "replace").decode()  # unpaired surrogates
    length = len(text.encode("utf-16-le")) // 2 if len(text) > MAX_CHARACTERS // 2 else len(text)
    if length > MAX_CHARACTERS:
        raise InvalidJob(
            f"expected at most {MAX_CHARACTERS} characters, the limit of a cell, got {length}: "
            "shorten it, or store a link to it"
        )
    return {"userEnteredValue": {"stringValue": text}}


def _as_text(value: object) -> str:
    if isinstance(value, list | tuple) and not any(
        isinstance(item, list | tuple | Mapping) for item in value
    ):
        return ", ".join(_as_word(item) for item in value if item is not None)
    if isinstance(value, list | tuple | Mapping):
        return as_json(value)
    return str(value)


def as_json(value: object) -> str:
    """Convert any value to JSON; what JSON does not know becomes text."""
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # unpaired surrogates, or very large integers
        return json.dumps(value, default=str)


def _as_word(value: object) -> str:
    return str(value).upper() if isinstance(value, bool) else str(value)


def _parse_date(text: str) -> date | None:
    """The date or time of a text in ISO 8601; None for any other text."""
    try:
        if len(text) == 10 and _DATE.match(text):
            return date.fromisoformat(text)
        if 16 <= len(text) <= 35 and _DATETIME.match(text):
            return datetime.fromisoformat(text)
    except ValueError:  # February 30
        pass
    return None


def _date_cell(value: date, zone: tzinfo) -> Cell:
    kind = "DATE"
    if isinstance(value, datetime):
        kind = "DATE_TIME"
        try:
            moment = value.astimezone(zone).replace(tzinfo=None) if value.tzinfo else value
        except (OverflowError, ValueError):
            return _text_cell(value.isoformat())
    else:
        moment = datetime.combine(value, time())
    if moment.year < 1900:  # Google and Excel count differently there
        return _text_cell(value.isoformat())
    passed = moment - _EPOCH
    # Rounded to a microsecond: 1e-11 of a day.
    serial = passed.days + round((passed.seconds + passed.microseconds / 1e6) / 86_400, 11)
    return {
        "userEnteredValue": {"numberValue": serial if kind == "DATE_TIME" else passed.days},
        "userEnteredFormat": {"numberFormat": {"type": kind, "pattern": _FORMATS[kind]}},
    }
