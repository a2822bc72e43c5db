"""Binds fields of answers to columns.

A field has the column with its entry of developer metadata, which stays when a person moves,
renames or hides the column; otherwise the column with its name as header; otherwise a new column.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...core.errors import InvalidJob
from .errors import SheetRefused
from .layout import Layout
from .metadata import COLUMN, HEADER, TAB, create, dimension, entry_id, header_id, short_digest
from .ranges import MAX_COLUMNS

#: Limit of Google Sheets.
MAX_CELLS = 10_000_000
_MAX_NAME = 1000


@dataclass(frozen=True, slots=True)
class Binding:
    """The columns of fields, and what has to be written for them.

    Attributes:
        columns: field -> index of its column.
        requests: requests that create columns, headers and entries.
        added: number of new columns.
    """

    columns: dict[str, int]
    requests: list[dict[str, Any]]
    added: int


def check_field(name: str) -> None:
    """Check the name of a field.

    Raises:
        InvalidJob
    """
    is_text = name == name.encode("utf-8", "replace").decode()  # no unpaired surrogates
    if not name.strip() or len(name) > _MAX_NAME or not is_text:
        raise InvalidJob(
            f"expected names of answers with 1 to {_MAX_NAME} valid characters, got {len(name)}"
        )


def bind(layout: Layout, fields: Iterable[str], first: int, *, is_empty: bool) -> Binding:
    """Bind fields to columns.

    Args:
        fields: in the order in which new columns are added.
        first: index of the first column that new columns may have.
        is_empty: whether the tab has no data: new columns need not be inserted.

    Raises:
        SheetRefused: the tab would have too many columns or cells.
    """
    columns: dict[str, int] = {}
    new: list[str] = []
    unbound: list[str] = []  # fields without an entry
    taken = set(layout.fields.values())
    by_header: dict[str, int] = {}
    for index, text in sorted(layout.headers.items()):
        if index not in taken and index >= first:
            by_header.setdefault(_normal(text), index)
    for name in dict.fromkeys(fields):
        column = layout.fields.get(short_digest(name))
        if column is None:
            unbound.append(name)
            column = by_header.pop(_normal(name), None)
        if column is None:
            new.append(name)
        else:
            columns[name] = column
    start = max([first - 1, *taken, *layout.headers]) + 1
    columns |= {name: start + index for index, name in enumerate(new)}
    requests = _new_columns(layout, start, new, is_empty=is_empty)
    requests += _entries(layout, {name: columns[name] for name in unbound})
    return Binding(columns, requests, len(new))


def make_room(layout: Layout, columns: int) -> list[dict[str, Any]]:
    """The request that adds columns at the right end, if the grid has fewer.

    Raises:
        SheetRefused: the tab would have too many columns or cells.
    """
    missing = columns - layout.columns
    if missing <= 0:
        return []
    check_size(layout, missing)
    return [
        {
            "appendDimension": {
                "sheetId": layout.sheet_id,
                "dimension": "COLUMNS",
                "length": missing,
            }
        }
    ]


def check_size(layout: Layout, columns: int) -> None:
    """Check that a tab may have further columns.

    Raises:
        SheetRefused
    """
    total = layout.columns + columns
    if total > MAX_COLUMNS or total * layout.rows > MAX_CELLS:
        raise SheetRefused("too_many_cells")


def mark_tab(layout: Layout, tab: str) -> list[dict[str, Any]]:
    """The request that creates the entry of a tab, so that it can be renamed."""
    name = short_digest(tab)
    if name in layout.tabs:
        return []
    id = entry_id(TAB, layout.sheet_id, name)
    return [create(id, TAB, name, {"sheetId": layout.sheet_id})]


def _new_columns(
    layout: Layout, start: int, new: list[str], *, is_empty: bool
) -> list[dict[str, Any]]:
    """Requests that add columns with headers. Cells of a person are neither read nor changed."""
    if not new:
        return []
    end = start + len(new)
    if is_empty or start >= layout.columns:
        requests = make_room(layout, end)
    else:
        check_size(layout, len(new))
        span = {
            "sheetId": layout.sheet_id,
            "dimension": "COLUMNS",
            "startIndex": start,
            "endIndex": end,
        }
        requests = [{"insertDimension": {"range": span, "inheritFromBefore": start > 0}}]
    cells = [{"userEnteredValue": {"stringValue": name}} for name in new]
    where = {
        "sheetId": layout.sheet_id,
        "rowIndex": layout.header_row,
        "columnIndex": start,
    }
    write = {"start": where, "rows": [{"values": cells}], "fields": "userEnteredValue"}
    return [*requests, {"updateCells": write}]


def _entries(layout: Layout, columns: dict[str, int]) -> list[dict[str, Any]]:
    """Requests that create the entries of fields and of the row of headers."""
    if not columns:
        return []
    sheet = layout.sheet_id
    taken = set(layout.ids.values())
    requests = []
    if not layout.is_marked:
        row = dimension(sheet, "ROWS", layout.header_row)
        requests.append(create(header_id(sheet), HEADER, "1", row))
    for name, column in columns.items():
        value = short_digest(name)
        # The same id in every worker: of two workers that add a column, one fails.
        ids = (entry_id(COLUMN, sheet, value, number) for number in range(1000))
        id = next(each for each in ids if each not in taken)
        taken.add(id)
        requests.append(create(id, COLUMN, value, dimension(sheet, "COLUMNS", column)))
    return requests


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()
