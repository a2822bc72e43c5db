"""Looks for rows by their row key, for jobs that the store of claims has forgotten."""

from __future__ import annotations

from collections.abc import Mapping

from .client import SheetsClient
from .layout import Layout
from .ranges import column_letters, quoted
from .rows import Typed, content


def find_written(
    client: SheetsClient, spreadsheet: str, layout: Layout, typed: Mapping[int, Typed]
) -> tuple[set[int], set[int]]:
    """Find the jobs whose row key is in the tab.

    Args:
        typed: jobs by index.

    Returns:
        The indexes of the jobs whose rows were found, and of jobs that have no row key.

    Raises:
        SinkError, NotNow: see :class:`.client.SheetsClient`.
    """
    found: set[int] = set()
    unchecked: set[int] = set()
    by_column: dict[int, dict[int, object]] = {}
    for index, each in typed.items():
        value, column = content(each.key_cell()), each.key_column(layout)
        if value in (None, ""):
            unchecked.add(index)
        elif column is not None and column < layout.columns:
            by_column.setdefault(column, {})[index] = value
    for column, values in by_column.items():
        letters = column_letters(column)
        where = f"{quoted(layout.title)}!{letters}:{letters}"
        lines = client.values(spreadsheet, where, by_columns=True)
        present = {(type(value) is bool, value) for value in (lines[0] if lines else ())}
        found |= {
            index for index, value in values.items() if (type(value) is bool, value) in present
        }
    return found, unchecked
