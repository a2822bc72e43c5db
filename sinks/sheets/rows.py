"""The rows of a job, and the requests that write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from itertools import groupby
from typing import Any

from ...core.errors import InvalidJob
from .cells import Cell, has_format, make_cell, make_row
from .columns import check_field
from .layout import Layout
from .metadata import short_digest
from .ranges import MAX_COLUMNS, Range

_VALUE = "userEnteredValue"
_FORMAT = "userEnteredFormat.numberFormat"


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one job.

    Attributes:
        key: the job's key: rows of jobs with the same key are written once.
        range: the job's range, parsed.
        answers: values by field, for one row; otherwise ``values``.
        values: rows of values, from the first column of the range. In an update, None leaves a
            cell as it is.
        is_update: write into ``range`` instead of appending.
        row_key: field, or index of the value, that identifies the row; None for none.
        is_doubtful: whether an earlier attempt may have written the rows.
        order: when the job was sent, a number that grows. An update does not overwrite the update
            of the same range by a job that was sent later. 0 if unknown: updates as they come.
    """

    key: str
    range: Range
    answers: Mapping[str, Any] | None = field(default=None, repr=False)
    values: Sequence[Sequence[Any]] = field(default=(), repr=False)
    is_update: bool = False
    row_key: str | int | None = None
    is_doubtful: bool = False
    order: int = 0

    @property
    def header_row(self) -> int:
        """Index of the row of headers: the first row of a range to append to."""
        return 0 if self.is_update else self.range.start_row or 0

    @property
    def first_column(self) -> int:
        """Index of the first column of the range."""
        return self.range.start_column or 0

    @property
    def place(self) -> str:
        """The range that an update overwrites; empty for an append."""
        where = self.range
        corners = (where.start_row, where.end_row, where.start_column, where.end_column)
        return f"{where.tab}!{corners}" if self.is_update and self.order else ""

    @property
    def number(self) -> int:
        """The number of rows."""
        return len(self.values) if self.answers is None else 1


@dataclass(frozen=True, slots=True)
class Typed:
    """Rows as cells.

    Attributes:
        by_field: the cells of answers.
        lines: the cells of values.
        width: number of columns that the values need, from the first column of the tab.
    """

    rows: Rows
    by_field: dict[str, Cell] = field(repr=False)
    lines: list[list[Cell]] = field(repr=False)
    width: int

    def key_cell(self) -> Cell:
        """The cell of the row key in the first row; empty if there is none."""
        key = self.rows.row_key
        if isinstance(key, str):
            return self.by_field.get(key, {})
        if key is not None and self.lines and 0 <= key < len(self.lines[0]):
            return self.lines[0][key]
        return {}

    def key_column(self, layout: Layout) -> int | None:
        """The column of the row key; None if the tab does not have it yet."""
        key = self.rows.row_key
        if isinstance(key, str):
            known = layout.fields.get(short_digest(key))
            named = [index for index, text in layout.headers.items() if text.strip() == key.strip()]
            return known if known is not None else next(iter(named), None)
        return None if key is None else self.rows.first_column + key

    def requests(self, layout: Layout, columns: Mapping[str, int]) -> Iterator[dict[str, Any]]:
        """The requests that write the rows.

        Args:
            columns: field -> column.
        """
        first = self.rows.first_column
        lines = self.lines
        if self.rows.answers is not None:
            first = 0
            cells = {columns[name]: cell for name, cell in self.by_field.items() if cell}
            lines = [[cells.get(index, {}) for index in range(max(cells) + 1)]]
        if self.rows.is_update:
            yield from self._updates(layout, lines, first)
            return
        lines = [[{}] * first + line for line in lines]
        fields = _fields(cell for line in lines for cell in line)
        rows = [{"values": line} for line in lines]
        yield {"appendCells": {"sheetId": layout.sheet_id, "rows": rows, "fields": fields}}

    def _updates(
        self, layout: Layout, lines: Sequence[Sequence[Cell]], first: int
    ) -> Iterator[dict[str, Any]]:
        """A request for each run of cells that has values; other cells stay."""
        top = self.rows.range.start_row or 0
        for number, line in enumerate(lines):
            numbered = enumerate(line, first)
            for has_value, run in groupby(numbered, lambda pair: bool(pair[1])):
                cells = list(run)
                if has_value:
                    yield _update(layout, top + number, cells)


def check_rows(rows: Rows) -> None:
    """Check what is known without the spreadsheet.

    Raises:
        InvalidJob
    """
    where = rows.range
    if rows.answers is not None:
        for name in rows.answers:
            check_field(name)
        if all(value is None for value in rows.answers.values()):
            raise InvalidJob("expected answers with a value, got none")
        if rows.is_update and (where.start_row is None or where.end_row != where.start_row + 1):
            raise InvalidJob("expected range to be one row for an update with answers: Answers!5:5")
        return
    if not any(value is not None for line in rows.values for value in line):
        raise InvalidJob("expected values with at least one value, got none")
    width = max(map(len, rows.values))
    if rows.first_column + width > MAX_COLUMNS:
        raise InvalidJob(f"expected at most {MAX_COLUMNS} columns, got more")
    if rows.is_update:
        high = None if where.end_row is None else where.end_row - (where.start_row or 0)
        wide = None if where.end_column is None else where.end_column - rows.first_column
        if (high is not None and len(rows.values) > high) or (wide is not None and width > wide):
            raise InvalidJob(
                f"expected values that fit into range, got {len(rows.values)} rows of "
                f"up to {width} values: enlarge range"
            )


def make_typed(rows: Rows, zone: tzinfo) -> Typed:
    """Convert the values of a job to cells.

    Raises:
        InvalidJob
    """
    if rows.answers is None:
        lines = [make_row(line, zone) for line in rows.values]
        return Typed(rows, {}, lines, rows.first_column + max(map(len, lines)))
    cells: dict[str, Cell] = {}
    for name, value in rows.answers.items():
        try:
            cells[name] = make_cell(value, zone)
        except InvalidJob as error:
            error.reword(f"answer {len(cells) + 1} of {len(rows.answers)}: {error}")
            raise
    return Typed(rows, cells, [], 0)


def content(cell: Cell) -> object:
    """The value of a cell, as reading it returns it; None for an empty cell."""
    return next(iter(cell.get(_VALUE, {}).values()), None)


def _update(layout: Layout, row: int, cells: Sequence[tuple[int, Cell]]) -> dict[str, Any]:
    values = [cell for _, cell in cells]
    start = {"sheetId": layout.sheet_id, "rowIndex": row, "columnIndex": cells[0][0]}
    write = {"start": start, "rows": [{"values": values}], "fields": _fields(values)}
    return {"updateCells": write}


def _fields(cells: Any) -> str:
    return f"{_VALUE},{_FORMAT}" if has_format(cells) else _VALUE
