"""Ranges in A1 notation: ``Answers!A1:C``, ``'It''s new'!2:2``, ``Answers``, ``B2:D``.

Named ranges are not supported: the text before or without ``!`` is the title of a tab.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...core.errors import InvalidJob

#: Limits of Google Sheets.
MAX_COLUMNS = 18_278
MAX_ROWS = 10_000_000
_MAX_TITLE = 100
_CELLS = re.compile(
    r"(?!:)\$?([A-Za-z]{1,3})?\$?([1-9][0-9]{0,7})?(?::\$?([A-Za-z]{1,3})?\$?([1-9][0-9]{0,7})?)?\Z"
)
_HELP = "write it as 'Answers', 'Answers!A1:F' or \"'My answers'!A1:F\""


@dataclass(frozen=True, slots=True)
class Range:
    """A range; indexes count from 0, ends are exclusive.

    Attributes:
        tab: title of the tab; empty for the first tab.
        start_row, start_column: None for the first row or column.
        end_row, end_column: None for an open end.
    """

    tab: str
    start_row: int | None = None
    end_row: int | None = None
    start_column: int | None = None
    end_column: int | None = None


def parse_range(text: str) -> Range:
    """Parse a range.

    Raises:
        InvalidJob: it is not a range in A1 notation.
    """
    text = text.strip()
    tab, cells = _split(text)
    if not cells:
        return Range(tab)
    match = _CELLS.match(cells)
    if not match or not any(match.groups()):
        raise _invalid()
    first_column, first_row, last_column, last_row = match.groups()
    if ":" not in cells:
        if not (first_column and first_row):
            raise _invalid()
        last_column, last_row = first_column, first_row
    elif not (last_column or last_row):
        raise _invalid()
    columns = sorted(map(column_index, filter(None, (first_column, last_column))))
    rows = sorted(int(row) - 1 for row in (first_row, last_row) if row)
    if (rows and rows[-1] >= MAX_ROWS) or (first_row and last_row and not columns and not rows):
        raise _invalid()
    return Range(
        tab,
        start_row=rows[0] if first_row or len(rows) == 2 else None,
        end_row=rows[-1] + 1 if last_row else None,
        start_column=columns[0] if first_column or len(columns) == 2 else None,
        end_column=columns[-1] + 1 if last_column else None,
    )


def column_index(letters: str) -> int:
    """Convert letters of a column to its index: ``A`` is 0, ``ZZZ`` the last column.

    Raises:
        InvalidJob: these are not letters of a column.
    """
    if not re.fullmatch(r"[A-Za-z]{1,3}", letters):
        raise InvalidJob("expected a column of A to ZZZ, got something else")
    index = 0
    for letter in letters.upper():
        index = index * 26 + ord(letter) - ord("A") + 1
    return index - 1


def column_letters(index: int) -> str:
    """Convert the index of a column to its letters."""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def quoted(tab: str) -> str:
    """Quote a tab's title, so that it is never taken for cells."""
    return "'" + tab.replace("'", "''") + "'"


def _split(text: str) -> tuple[str, str]:
    """The tab's title and the cells of a range; either may be empty."""
    if not text or len(text) > 2 * _MAX_TITLE + 40:
        raise _invalid()
    if text.startswith("'"):
        match = re.match(r"'((?:[^']|'')+)'(?:!(.+))?\Z", text, re.DOTALL)
        if not match:
            raise _invalid()
        return match[1].replace("''", "'"), match[2] or ""
    tab, mark, cells = text.rpartition("!")
    if mark:
        if not tab or not cells:
            raise _invalid()
        return tab, cells
    match = _CELLS.match(text)
    is_cell = match is not None and (":" in text or bool(match[1] and match[2]))
    return ("", text) if is_cell else (text, "")


def _invalid() -> InvalidJob:
    return InvalidJob(f"expected range to be a range in A1 notation, got something else: {_HELP}")
