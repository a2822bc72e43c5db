"""A spreadsheet of the stand-in: tabs, cells, developer metadata, protected ranges.

A batch is applied to a copy, which replaces the spreadsheet if all requests are valid.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tests.support.google.a1 import Area, area, split

MAX_CELLS = 10_000_000
MAX_CHARACTERS = 50_000
MAX_COLUMNS = 18_278
#: Space for developer metadata: of the spreadsheet, and of each tab.
MAX_METADATA = 30_000


class Refused(Exception):
    """A request is invalid (400)."""


@dataclass
class Tab:
    """A tab. Rows of cells end with a cell that has a value; the last row has one."""

    sheet_id: int
    title: str
    rows: int = 1000
    columns: int = 26
    cells: list[list[dict[str, Any]]] = field(default_factory=list)
    hidden: bool = False
    protected: list[Area] = field(default_factory=list)

    def copy(self) -> Tab:
        return replace(self, cells=list(self.cells), protected=list(self.protected))

    def values(self) -> list[list[Any]]:
        """The values of all cells."""
        return [[value_of(cell) for cell in row] for row in self.cells]

    def put(self, row: int, column: int, cells: list[dict[str, Any]], fields: str) -> None:
        """Write cells into a row."""
        if row >= self.rows:
            raise Refused(
                f"Attempting to write row: {row}, beyond the last requested row of: {self.rows - 1}"
            )
        if column + len(cells) > self.columns:
            last = column + len(cells) - 1
            raise Refused(
                f"Attempting to write column: {last}, beyond the last requested column of: "
                f"{self.columns - 1}"
            )
        if cells and self.is_protected(row, column, column + len(cells)):
            raise Refused(
                "You are trying to edit a protected cell or object. Please contact the spreadsheet "
                "owner to remove protection if you need to edit."
            )
        self.cells += [[] for _ in range(row + 1 - len(self.cells))]
        line = list(self.cells[row])
        line += [{} for _ in range(column + len(cells) - len(line))]
        for index, cell in enumerate(cells, column):
            line[index] = merged(line[index], cell, fields)
        self.cells[row] = line
        self.trim(row)

    def trim(self, row: int) -> None:
        line = self.cells[row]
        while line and value_of(line[-1]) is None:
            line.pop()
        while self.cells and not self.cells[-1]:
            self.cells.pop()

    def is_protected(self, row: int, left: int, right: int) -> bool:
        return any(
            (one.top or 0) <= row < (self.rows if one.bottom is None else one.bottom)
            and left < (self.columns if one.right is None else one.right)
            and (one.left or 0) < right
            for one in self.protected
        )


@dataclass(frozen=True)
class Entry:
    """An entry of developer metadata. ``place``: (), (sheet id) or (sheet id, dimension, index)."""

    id: int
    key: str
    value: str
    visibility: str
    place: tuple[Any, ...]


class Book:
    """A spreadsheet.

    Args:
        titles: titles of its tabs; the first has the sheet id 0.
        editors: users who may edit; None for everybody.
    """

    def __init__(
        self, *titles: str, zone: str = "Europe/Berlin", editors: set[str] | None = None
    ) -> None:
        self.tabs = [Tab(0 if not n else 1000 + n, title) for n, title in enumerate(titles)]
        self.zone = zone
        self.entries: dict[int, Entry] = {}
        self.editors = editors
        self.viewers: set[str] = set()
        #: Whether deleting entries that do not exist is an error: the reference does not say.
        self.refuses_empty_deletes = True

    def tab(self, title: str | None) -> Tab | None:
        """The tab with a title; the first visible tab for None."""
        for tab in self.tabs:
            if (title is None and not tab.hidden) or (
                title is not None and tab.title.casefold() == title.casefold()
            ):
                return tab
        return None

    def by_id(self, sheet_id: int) -> Tab:
        for tab in self.tabs:
            if tab.sheet_id == sheet_id:
                return tab
        raise Refused(f"No grid with id: {sheet_id}")

    def find(self, text: str) -> tuple[Tab, Area]:
        """The tab and area of a range in A1 notation."""
        title, cells = split(text)
        tab, found = self.tab(title), area(cells)
        if tab is None or found is None:
            raise Refused(f"Unable to parse range: {text}")
        if (found.top or 0) >= tab.rows or (found.left or 0) >= tab.columns:
            raise Refused(
                f"Range ({text}) exceeds grid limits. Max rows: {tab.rows}, max columns: "
                f"{tab.columns}"
            )
        return tab, found

    def copy(self) -> Book:
        other = Book(zone=self.zone, editors=self.editors)
        other.tabs = [tab.copy() for tab in self.tabs]
        other.entries = dict(self.entries)
        other.viewers = self.viewers
        other.refuses_empty_deletes = self.refuses_empty_deletes
        return other

    def replace(self, other: Book) -> None:
        """Take over the content of a changed copy; the tabs stay the same objects."""
        for tab, changed in zip(self.tabs, other.tabs, strict=True):
            vars(tab).update(vars(changed))
        self.entries = other.entries

    def create_entry(self, given: dict[str, Any]) -> Entry:
        """Create an entry of developer metadata."""
        for name in ("metadataKey", "visibility", "location"):
            if not given.get(name):
                raise Refused(f"Developer metadata must have a {name}.")
        id = given.get("metadataId") or random.randrange(1, 2**31)
        if id <= 0:
            raise Refused("The metadata ID must be positive.")
        if id in self.entries:
            raise Refused(
                f"Cannot add developer metadata with ID {id}: developer metadata with that ID "
                "already exists."
            )
        place = self._place(given["location"])
        entry = Entry(
            id, given["metadataKey"], given.get("metadataValue", ""), given["visibility"], place
        )
        self.entries[id] = entry
        size = sum(
            len(one.key) + len(one.value)
            for one in self.entries.values()
            if one.place[:1] == place[:1]
        )
        if size > MAX_METADATA:
            raise Refused("The developer metadata exceeds the storage limit.")
        return entry

    def _place(self, location: dict[str, Any]) -> tuple[Any, ...]:
        match location:
            case {"spreadsheet": True}:
                return ()
            case {"sheetId": int(sheet)}:
                return (self.by_id(sheet).sheet_id,)
            case {"dimensionRange": span}:
                tab = self.by_id(span.get("sheetId", 0))
                start, end = span.get("startIndex", 0), span.get("endIndex", 0)
                size = tab.rows if span["dimension"] == "ROWS" else tab.columns
                if end != start + 1 or end > size:
                    raise Refused("The location must be a single row or column of the grid.")
                return (tab.sheet_id, span["dimension"], start)
        raise Refused("The location of developer metadata is missing.")

    def shift(self, sheet: int, kind: str, move: dict[int, int | None]) -> None:
        """Move entries with their rows or columns: old index -> new, None for deleted."""
        for id, entry in list(self.entries.items()):
            if entry.place[:2] == (sheet, kind) and len(entry.place) == 3:
                new = move.get(entry.place[2], entry.place[2])
                if new is None:
                    del self.entries[id]
                else:
                    self.entries[id] = replace(entry, place=(sheet, kind, new))

    def insert_columns(self, tab: Tab, start: int, number: int) -> None:
        self.grow(tab, columns=number)
        for index, row in enumerate(tab.cells):
            if len(row) > start:
                tab.cells[index] = [*row[:start], *({} for _ in range(number)), *row[start:]]
        moves = {index: index + number for index in range(start, tab.columns)}
        self.shift(tab.sheet_id, "COLUMNS", {**moves})

    def grow(self, tab: Tab, *, rows: int = 0, columns: int = 0) -> None:
        """Add rows and columns at the end of a grid."""
        tab.rows, tab.columns = tab.rows + rows, tab.columns + columns
        if sum(one.rows * one.columns for one in self.tabs) > MAX_CELLS:
            raise Refused(
                "This action would increase the number of cells in the workbook above the limit of "
                f"{MAX_CELLS} cells."
            )
        if tab.columns > MAX_COLUMNS:
            raise Refused(f"A sheet may have {MAX_COLUMNS} columns.")

    # What people do in the browser.

    def insert_rows(self, tab: Tab, start: int, number: int = 1) -> None:
        tab.rows += number
        if len(tab.cells) > start:
            tab.cells[start:start] = [[] for _ in range(number)]
        moves = {index: index + number for index in range(start, tab.rows)}
        self.shift(tab.sheet_id, "ROWS", {**moves})

    def move_column(self, tab: Tab, old: int, new: int) -> None:
        order = list(range(tab.columns))
        order.insert(new, order.pop(old))
        for index, row in enumerate(tab.cells):
            padded = row + [{}] * (tab.columns - len(row))
            tab.cells[index] = [padded[one] for one in order]
        for index in reversed(range(len(tab.cells))):
            tab.cells[index] = list(tab.cells[index])
            while tab.cells[index] and value_of(tab.cells[index][-1]) is None:
                tab.cells[index].pop()
        self.shift(tab.sheet_id, "COLUMNS", {one: at for at, one in enumerate(order)})

    def delete_column(self, tab: Tab, index: int) -> None:
        for number, row in enumerate(tab.cells):
            tab.cells[number] = row[:index] + row[index + 1 :]
        moves: dict[int, int | None] = {one: one - 1 for one in range(index + 1, tab.columns)}
        tab.columns -= 1
        self.shift(tab.sheet_id, "COLUMNS", {index: None, **moves})

    def write(self, tab: Tab, row: int, column: int, *values: Any) -> None:
        """What a person types."""
        names = {bool: "boolValue", str: "stringValue"}
        cells = [
            {"userEnteredValue": {names.get(type(value), "numberValue"): value}} for value in values
        ]
        tab.put(row, column, cells, "userEnteredValue")


def value_of(cell: dict[str, Any]) -> Any:
    """The value of a cell; None if it is empty."""
    return next(iter(cell.get("userEnteredValue", {}).values()), None)


def merged(old: dict[str, Any], new: dict[str, Any], fields: str) -> dict[str, Any]:
    """A cell after the fields of another are written into it."""
    result = dict(old)
    for name in fields.split(","):
        top = name.partition(".")[0]
        if top == "*":
            result = dict(new)
        elif top in new:
            result[top] = new[top]
        else:
            result.pop(top, None)
    for key, text in new.get("userEnteredValue", {}).items():
        if key == "stringValue" and len(text.encode("utf-16-le")) > 2 * MAX_CHARACTERS:
            raise Refused(
                f"Your input contains more than the maximum of {MAX_CHARACTERS} characters in a "
                "single cell."
            )
    return result


def locations(entry: Entry) -> dict[str, Any]:
    """The location of an entry, as answers have it."""
    match entry.place:
        case ():
            return {"locationType": "SPREADSHEET", "spreadsheet": True}
        case (sheet,):
            return {"locationType": "SHEET", "sheetId": sheet}
        case (sheet, dimension, index):
            span = {
                "sheetId": sheet,
                "dimension": dimension,
                "startIndex": index,
                "endIndex": index + 1,
            }
            return {"locationType": dimension.removesuffix("S"), "dimensionRange": span}
    raise AssertionError(entry.place)


def entries_at(book: Book, *place: Any) -> Iterator[dict[str, Any]]:
    for entry in book.entries.values():
        if entry.place == place:
            yield shown(entry)


def shown(entry: Entry) -> dict[str, Any]:
    """An entry as answers have it."""
    return {
        "metadataId": entry.id,
        "metadataKey": entry.key,
        "metadataValue": entry.value,
        "location": locations(entry),
        "visibility": entry.visibility,
    }
