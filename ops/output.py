"""How commands print: a table for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
import typer
from rich import box
from rich.console import Console
from rich.table import Table

#: The option of every command that prints a table.
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


_WIDE = 1_000


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode() + "\n")


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str
) -> None:
    """A table; numbers stand on the right, None is a dash.

    Args:
        empty: what to say where there is no row.
    """
    console = Console(highlight=False)
    if not rows:
        console.print(empty, markup=False)
        return
    table = Table(
        title=title if console.is_terminal else None,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD if console.is_terminal else None,
        pad_edge=False,
    )
    last = len(columns) - 1
    for index, column in enumerate(columns):
        numbers = all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(
            column,
            justify="right" if numbers else "left",
            # Names and ids are there to be copied; what is long stands last and may break.
            no_wrap=index < last,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*("–" if cell is None else _escape(str(cell)) for cell in row))
    # Into a file or a pipe a row is a line.
    console.print(table, width=None if console.is_terminal else _WIDE, soft_wrap=False)


def _escape(text: str) -> str:
    # Rich reads [square brackets] as markup.
    return text.replace("[", r"\[")
