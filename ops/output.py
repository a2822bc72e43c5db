"""Prints for commands: tables for people, JSON for programs.

Only this module prints (a test enforces it). Output may contain text from outside, such as a
response, an id or an actor's name. So :mod:`..core.printable` escapes all output, on a terminal
and in a pipe, and rich never interprets it as markup.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import orjson

from ..core.printable import ascii_json, printable, printable_json

if TYPE_CHECKING:
    from rich.console import Console

#: Table cell for a value that the broker does not provide.
NOT_AVAILABLE = "n/a"
#: Characters that the last column of a table gets at least, before the other columns wrap too.
_LAST_COLUMN = 12


def say(text: str = "") -> None:
    """Print one line on standard output."""
    _write(sys.stdout, printable(text) + "\n")


def say_error(text: str) -> None:
    """Print lines on standard error."""
    _write(sys.stderr, printable(text, keep="\n") + "\n")


def ask(question: str) -> str:
    """Print a question on standard error; return the line that is typed, empty at its end."""
    _write(sys.stderr, printable(question))
    sys.stderr.flush()
    return sys.stdin.readline()


def print_document(text: str) -> None:
    """Print text of several lines on standard output, without a final newline."""
    _write(sys.stdout, printable(text, keep="\n"))


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()
    except TypeError:  # a lone surrogate, or an integer of more than 64 bits
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    text = printable_json(text)
    if not _can_write(sys.stdout, text):
        text = ascii_json(text)
    _write(sys.stdout, text + "\n")


def make_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Make a rich console that interprets no markup, no emoji codes and no control characters."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class PlainConsole(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text, keep="\n"), style, control)

    return PlainConsole(stderr=stderr, quiet=quiet, highlight=False, markup=False, emoji=False)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str
) -> None:
    """Print a table, with numbers aligned to the right and None as a dash.

    Args:
        empty: text to print if there are no rows.
    """
    if not rows:
        say(empty)
        return
    cells = [[_text(cell) for cell in row] for row in rows]
    right = [_is_number(rows, index) for index in range(len(columns))]
    console = make_console()
    if not console.is_terminal:
        _print_lines([list(columns), *cells], right)
        return
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    widths = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
    # What the box leaves to the last column, with two spaces and a line between columns.
    room = console.width - sum(widths[:-1]) - 3 * len(columns) + 1
    is_narrow = room < min(widths[-1], _LAST_COLUMN)
    table = Table(
        title=Text(printable(title)),
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
            justify="right" if right[index] else "left",
            # Ids are copied, so only the last column, which holds long text, wraps where it can.
            no_wrap=index < last and not is_narrow,
            overflow="fold",
        )
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """Show progress on a terminal. Yields a function to call with the current count."""
    with make_console(stderr=True).status(f"{what}: 0") as status:
        yield lambda count: status.update(f"{what}: {count:,}")


def _print_lines(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    """Print each row as one line, however long, for a file or a pipe."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        )
        say("  ".join(padded).rstrip())


def _write(stream: TextIO, text: str) -> None:
    """Write text, escaping characters that the stream cannot encode."""
    if not _can_write(stream, text):
        encoding = stream.encoding
        text = text.encode(encoding, errors="backslashreplace").decode(encoding)
    stream.write(text)


def _can_write(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_number(rows: Sequence[Sequence[Any]], index: int) -> bool:
    return all(isinstance(row[index], int | float | None) for row in rows)


def _text(cell: Any) -> str:
    return "–" if cell is None else printable(str(cell))


def age(seconds: float) -> str:
    """Format a duration in its largest unit: ``45s``, ``12m``, ``3h``, ``5d``."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(0, seconds):.0f}s"
