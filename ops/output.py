"""How commands print: a table for people, JSON for programs.

Nothing else in this package prints (a test looks for it). Whatever is printed may hold text of
others: an answer of a receiver, an id, an actor's name. So all of it goes through
:mod:`..core.printable`, on a terminal and into a pipe, and none of it is read as rich's markup.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import orjson
import typer

from ..core.printable import ascii_json, printable, printable_json, read_id, shown_id

if TYPE_CHECKING:
    from rich.console import Console

#: The option of every command that prints a table.
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
#: The option of every command that changes many things at once.
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def say(text: str = "") -> None:
    """Print one line on standard output."""
    _write(sys.stdout, printable(text) + "\n")


def say_error(text: str) -> None:
    """Print lines on standard error."""
    _write(sys.stderr, printable(text, keep="\n") + "\n")


def print_document(text: str) -> None:
    """Print a text of several lines as it is on standard output."""
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
    """A console of rich's that interprets no text: no markup, no emoji codes, no controls."""
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
    """Print a table; numbers stand on the right, None is a dash.

    Args:
        empty: what to say where there is no row.
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
    from rich.table import Table
    from rich.text import Text

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
            # Names and ids are there to be copied; what is long stands last and may break.
            no_wrap=index < last,
            overflow="fold",
        )
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how far something long is: call what it yields with the count so far."""
    with make_console(stderr=True).status(f"{what}: 0") as status:
        yield lambda count: status.update(f"{what}: {count:,}")


def _print_lines(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    """Into a file or a pipe: a row is a line, however long."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        )
        say("  ".join(padded).rstrip())


def _write(stream: TextIO, text: str) -> None:
    """The only place that writes to standard output or standard error."""
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


def read_id_argument(text: str) -> str:
    """The parser of an argument that is an id as it was printed."""
    id = read_id(text)
    try:
        id.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise typer.BadParameter(f"expected an id as it is listed, got {text!r}") from None
    return id


def age(seconds: float) -> str:
    """A duration in its largest unit: ``45s``, ``12m``, ``3h``, ``5d``."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(0, seconds):.0f}s"


def short(id: str) -> str:
    """An id as it is shown: its beginning in a terminal, where a table has little room."""
    return shown_id(id[:13] if sys.stdout.isatty() else id)
