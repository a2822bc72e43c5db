"""The layout of a tab: its size, headers, and which field each column has.

It is read before the first call. Each call that writes rows returns the layout at its end, which
serves the next call, so that reading costs no calls while rows are coming.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock
from typing import Any

from .client import SheetsClient
from .errors import BadBatch, SheetRefused
from .metadata import COLUMN, HEADER, TAB, header_id, short_digest
from .ranges import quoted

#: Age from which a layout is read again.
MAX_AGE = timedelta(seconds=30)
_MAX_LAYOUTS = 1000
_ENTRY = "developerMetadata(metadataId,metadataKey,metadataValue)"
_PROPERTIES = "properties(sheetId,title,hidden,sheetType,gridProperties(rowCount,columnCount))"
_TABS = f"sheets({_PROPERTIES},{_ENTRY})"
FIELDS = (
    f"properties(timeZone),sheets({_PROPERTIES},{_ENTRY},data(startRow,startColumn,"
    f"rowMetadata({_ENTRY}),columnMetadata({_ENTRY}),rowData(values(formattedValue))))"
)


@dataclass(frozen=True, slots=True)
class Layout:
    """A tab at one moment.

    Attributes:
        sheet_id: id of the tab, which stays when it is renamed.
        title: its title.
        rows, columns: size of its grid.
        zone: name of the spreadsheet's time zone.
        header_row: index of the row of headers.
        is_marked: whether the row of headers has an entry.
        headers: text by column, without empty cells.
        fields: digest of a field -> its column, by entries.
        ids: digest of a field -> id of its entry.
        tabs: digests of the titles under which jobs name this tab.
    """

    sheet_id: int
    title: str
    rows: int
    columns: int
    zone: str
    header_row: int
    is_marked: bool
    headers: Mapping[int, str] = field(repr=False)
    fields: Mapping[str, int]
    ids: Mapping[str, int]
    tabs: frozenset[str]

    @property
    def range(self) -> str:
        """The row of headers in A1 notation."""
        return row_range(self.title, self.header_row)


class Layouts:
    """Layouts of the tabs to which this process writes. Thread-safe.

    Args:
        max_age: age from which a layout is read again.
    """

    def __init__(self, max_age: timedelta = MAX_AGE) -> None:
        self._max_age = max_age.total_seconds()
        self._lock = Lock()
        self._found: OrderedDict[tuple[str, str, int], tuple[float, Layout]] = OrderedDict()

    def get(
        self, client: SheetsClient, spreadsheet: str, tab: str, row: int, *, fresh: bool = False
    ) -> Layout:
        """Get a layout that is not too old.

        Args:
            tab: title of the tab in the job; empty for the first tab.
            row: index of the row of headers in the job.
            fresh: read it now.

        Raises:
            SheetRefused: there is no such tab or row.
            SinkError, NotNow: see :class:`.client.SheetsClient`.
        """
        key = (spreadsheet, tab, row)
        with self._lock:
            found = self._found.get(key)
        if found and not fresh and time.monotonic() - found[0] < self._max_age:
            return found[1]
        layout = read_layout(client, spreadsheet, tab, row)
        self._put(key, layout)
        return layout

    def update(
        self, spreadsheet: str, tab: str, row: int, used: Layout, answer: Mapping[str, Any]
    ) -> Layout | None:
        """Keep the layout in the answer of a call.

        Args:
            used: the layout with which the call was made.

        Returns:
            The new layout; None if the answer has none.
        """
        layout = parse_layout(answer, used.header_row, sheet_id=used.sheet_id)
        if layout is None or (used.is_marked and not layout.is_marked):
            # Without the mark, the row of headers has moved: read it again.
            with self._lock:
                self._found.pop((spreadsheet, tab, row), None)
            return layout
        self._put((spreadsheet, tab, row), layout)
        return layout

    def _put(self, key: tuple[str, str, int], layout: Layout) -> None:
        with self._lock:
            self._found[key] = (time.monotonic(), layout)
            self._found.move_to_end(key)
            if len(self._found) > _MAX_LAYOUTS:
                self._found.popitem(last=False)


def row_range(title: str, row: int) -> str:
    """A row in A1 notation."""
    return f"{quoted(title)}!{row + 1}:{row + 1}"


def read_layout(client: SheetsClient, spreadsheet: str, tab: str, row: int) -> Layout:
    """Read the layout of a tab; see :meth:`Layouts.get`."""
    title = tab or _find_title(client, spreadsheet, tab)
    try:
        found = client.get(spreadsheet, [row_range(title, row)], FIELDS)
    except BadBatch:
        other = _find_title(client, spreadsheet, tab)
        if other == title:
            raise
        title = other
        found = client.get(spreadsheet, [row_range(title, row)], FIELDS)
    layout = parse_layout(found, row)
    if layout is None:
        raise SheetRefused("range")
    if layout.is_marked or not (layout.fields or layout.tabs):
        return layout
    # The tab is known, but this row has no mark: rows may have been inserted above the headers.
    moved = _find_header(client, spreadsheet, layout.sheet_id)
    if moved in (None, row):
        return layout
    found = client.get(spreadsheet, [row_range(layout.title, moved)], FIELDS)
    return parse_layout(found, moved) or layout


def parse_layout(found: Mapping[str, Any], row: int, sheet_id: int | None = None) -> Layout | None:
    """Parse the layout of the tab that has data in a ``Spreadsheet``; None if none has.

    Args:
        row: index of the row of headers.
        sheet_id: id of the tab; None for the first tab with data.
    """
    for sheet in found.get("sheets") or ():
        properties, data = sheet["properties"], sheet.get("data")
        if not data or sheet_id not in (None, properties.get("sheetId", 0)):
            continue
        grid = properties.get("gridProperties") or {}
        first = data[0].get("startColumn", 0)
        columns = data[0].get("columnMetadata") or ()
        entries = [
            (index, entry)
            for index, column in enumerate(columns, first)
            for entry in _entries(column, COLUMN)
        ]
        cells = [cell for line in (data[0].get("rowData") or ())[:1] for cell in _cells(line)]
        texts = {index: str(cell.get("formattedValue", "")) for index, cell in enumerate(cells)}
        marks = (data[0].get("rowMetadata") or ())[:1]
        return Layout(
            sheet_id=properties.get("sheetId", 0),
            title=properties.get("title", ""),
            rows=grid.get("rowCount", 0),
            columns=grid.get("columnCount", 0),
            zone=(found.get("properties") or {}).get("timeZone", ""),
            header_row=row,
            is_marked=any(True for mark in marks for _ in _entries(mark, HEADER)),
            headers={index + first: text for index, text in texts.items() if text.strip()},
            fields={entry["metadataValue"]: index for index, entry in entries},
            ids={entry["metadataValue"]: entry["metadataId"] for _, entry in entries},
            tabs=frozenset(entry["metadataValue"] for entry in _entries(sheet, TAB)),
        )
    return None


def _find_title(client: SheetsClient, spreadsheet: str, tab: str) -> str:
    """The present title of a tab that was renamed.

    Raises:
        SheetRefused: there is no such tab.
    """
    sheets = client.get(spreadsheet, (), _TABS).get("sheets") or []
    grids = [each for each in sheets if each["properties"].get("sheetType", "GRID") == "GRID"]
    titles = [str(sheet["properties"]["title"]) for sheet in grids]
    for title in titles:
        if tab and title.casefold() == tab.casefold():
            return title
    wanted = short_digest(tab)
    bound = [
        title
        for title, sheet in zip(titles, grids, strict=True)
        if any(entry["metadataValue"] == wanted for entry in _entries(sheet, TAB))
    ]
    if bound:
        return bound[-1]
    visible = [
        title
        for title, sheet in zip(titles, grids, strict=True)
        if not sheet["properties"].get("hidden")
    ]
    if tab or not visible:
        raise SheetRefused("range")
    return visible[0]


def _find_header(client: SheetsClient, spreadsheet: str, sheet_id: int) -> int | None:
    for entry in client.metadata(spreadsheet, [header_id(sheet_id)]):
        span = (entry.get("location") or {}).get("dimensionRange") or {}
        if entry.get("metadataKey") == HEADER and span.get("dimension") == "ROWS":
            return int(span.get("startIndex", 0))
    return None


def _entries(found: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
    for entry in found.get("developerMetadata") or ():
        if entry.get("metadataKey") == key:
            yield entry


def _cells(line: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    return line.get("values") or ()
