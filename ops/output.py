"""How commands print: a table for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import orjson
import typer
from rich import box
from rich.console import Console
from rich.table import Table

#: The option of every command that prints a table.
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
#: The option of every command that changes many things at once.
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


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
    if not console.is_terminal:
        _print_lines(columns, rows)
        return
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    last = len(columns) - 1
    for index, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if _is_number(rows, index) else "left",
            # Names and ids are there to be copied; what is long stands last and may break.
            no_wrap=index < last,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(_escape(_text(cell)) for cell in row))
    console.print(table)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how far something long is: call what it yields with the count so far."""
    console = Console(stderr=True, highlight=False)
    with console.status(f"{what}: 0") as status:
        yield lambda count: status.update(f"{what}: {count:,}")


def _print_lines(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Into a file or a pipe: a row is a line, however long."""
    cells = [[" ".join(_text(cell).split()) for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [_is_number(rows, index) for index in range(len(columns))]
    for row in cells:
        padded = (
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        )
        print("  ".join(padded).rstrip())


def _is_number(rows: Sequence[Sequence[Any]], index: int) -> bool:
    return all(isinstance(row[index], int | float | None) for row in rows)


def _text(cell: Any) -> str:
    return "–" if cell is None else str(cell)


def _escape(text: str) -> str:
    # Rich reads [square brackets] as markup.
    return text.replace("[", r"\[")


def age(seconds: float) -> str:
    """A duration in its largest unit: ``45s``, ``12m``, ``3h``, ``5d``."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(0, seconds):.0f}s"


def short(id: str) -> str:
    """The beginning of an id in a terminal, where a table has little room; else all of it."""
    return id[:13] if sys.stdout.isatty() else id
