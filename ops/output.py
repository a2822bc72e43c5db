"""Prints for commands: tables for people, JSON for programs.

Only this module prints (a test enforces it). Output may contain text from outside, such as a
response, an id or an actor's name. So :mod:`..core.printable` escapes all output, on a terminal
and in a pipe, and rich never interprets it as markup.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

import orjson

from ..core.printable import ascii_json, printable, printable_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

#: Table cell for a value that the broker does not provide.
NOT_AVAILABLE = "n/a"
#: Table cell for None.
_NOTHING = "–"
#: Minimum width of the last column of a table, in characters; if narrower, it is below its row.
_LAST_COLUMN = 24
_NUMBER = re.compile(r"<?[0-9][0-9.,]*(%|[smhd])?")


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


def json_line(value: Any) -> str:
    """Format one JSON document as one line of ASCII, which every terminal and file can hold."""
    return ascii_json(orjson.dumps(value).decode()) + "\n"


def print_json_line(value: Any) -> None:
    """Print one JSON document as one line on standard output."""
    _write(sys.stdout, json_line(value))


def make_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Make a rich console that interprets no markup, no emoji codes and no control characters."""
    from rich.console import Console, ConsoleOptions
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
    console = make_console()
    if not console.is_terminal:
        _print_lines(columns, rows)
        return
    console.print(_table(console, title, columns, rows))


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print names with their values, each on lines of its own."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(printable(name)), Text(printable(value)))
    make_console().print(table)


def is_on_terminal() -> bool:
    """Whether tables are drawn for a terminal, not for a pipe or a file."""
    return make_console().is_terminal


def can_redraw() -> bool:
    """Whether standard output is a terminal, on which :func:`redraw` works."""
    return sys.stdout.isatty()


def redraw(
    title: Callable[[], str],
    content: Callable[[], tuple[Sequence[str], Sequence[Sequence[Any]], str]],
    *,
    every: float,
) -> None:
    """Draw a table on a terminal again and again, in its place, until Ctrl-C.

    Rows for which the terminal has too few lines are counted below the table.

    Args:
        title: returns the title.
        content: returns the columns, the rows and a text below the table; without columns only the
            text is drawn.
        every: seconds between two drawings.
    """
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    console = make_console()

    def drawn() -> Any:
        columns, rows, below = content()
        named = printable(title())
        for shown in range(min(len(rows), console.height), -1, -1):
            hidden = len(rows) - shown
            more = f"{hidden:,} more rows: enlarge the terminal\n" if hidden else ""
            table = (
                _table(console, named, columns, rows[:shown]) if columns else Text(named, "bold")
            )
            drawing = Group(table, Text(printable(more + below, keep="\n")))
            if len(console.render_lines(drawing)) < console.height:
                break
        return drawing

    # Only this thread draws, so after Ctrl-C the terminal shows the last whole table.
    with (
        suppress(KeyboardInterrupt),
        Live(drawn(), console=console, auto_refresh=False) as live,
    ):
        while True:
            time.sleep(every)
            live.update(drawn(), refresh=True)


def _table(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> RenderableType:
    """Make a table as wide as the terminal.

    Ids are copied, so only the last column wraps. Where the columns do not fit, the last column is
    below its row, then the widest of the others; a first cell of more than half the width has a
    line of its own.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    cells = [[_text(cell) for cell in row] for row in rows]
    right = [_is_number(rows, index) for index in range(len(columns))]
    widths = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
    last, width_before = len(columns) - 1, sum(widths[:-1])
    is_wide = sum(widths) + 3 * last <= console.width
    room = console.width - width_before - (3 if is_wide else 1) * last
    if room < min(widths[-1], _LAST_COLUMN):
        first, below = _layout(widths, console.width)
        return _stacked(title, columns, cells, right, [first, *widths[1:]], below)
    table = Table(
        title=Text(printable(title)),
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1) if is_wide else 0,
    )
    for index, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if right[index] else "left",
            no_wrap=index < last,
            overflow="fold",
        )
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def _layout(widths: Sequence[int], width: int) -> tuple[int, list[int]]:
    """Decide which cells are not on the line of their row.

    Args:
        widths: width of the widest cell of each column.
        width: width of the terminal.

    Returns:
        The width of the first column, whose wider cells have a line of their own, and the indexes
        of the columns that are below the row.
    """
    last = len(widths) - 1
    is_long = widths[0] > width / 2
    on_line, below = list(range(1, last)), [last]
    least = 2 if is_long else widths[0]
    if is_long and least + sum(widths[1:]) + last <= width:
        on_line, below = list(range(1, last + 1)), []
    while on_line and least + sum(widths[index] + 1 for index in on_line) > width:
        widest = max(on_line, key=lambda index: widths[index])
        on_line.remove(widest)
        below.append(widest)
    room = width - sum(widths[index] + 1 for index in on_line)
    return max(least, min(widths[0], room)), sorted(below)


def _stacked(
    title: str,
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    right: Sequence[bool],
    widths: Sequence[int],
    below: Sequence[int],
) -> RenderableType:
    """Make a table with cells below their row, as :func:`_layout` decides.

    The cells of the last column have no label there; the header has it.
    """
    from rich.cells import cell_len
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    last = len(columns) - 1
    on_line = [index for index in range(len(columns)) if index not in below]
    lines: list[RenderableType] = [Text(printable(title), "bold")]
    for number, row in enumerate([columns, *cells]):
        style = "" if number else "bold"
        shown = [row[index] for index in on_line]
        if cell_len(shown[0]) > widths[0]:
            lines.append(Text(shown[0], style, overflow="fold"))
            shown[0] = ""
        aligned = _aligned(
            shown,
            [right[index] for index in on_line],
            [widths[index] for index in on_line],
            length=cell_len,
        )
        if aligned.strip():
            lines.append(Text(aligned, style, no_wrap=True, overflow="fold"))
        for index in below:
            cell = row[index] if index == last else f"{columns[index]}: {row[index]}"
            if row[index] != _NOTHING and (number or index == last):
                lines.append(Padding(Text(cell, style, overflow="fold"), (0, 0, 0, 2)))
    return Group(*lines)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """Show progress on a terminal. Yields a function to call with the current count."""
    with make_console(stderr=True).status(f"{what}: 0") as status:
        yield lambda count: status.update(f"{what}: {count:,}")


@contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal. Yields a function to call with the current count.

    Args:
        total: the count at the end; None if unknown.
    """
    console = make_console(stderr=True)
    if not console.is_terminal:
        yield lambda _count: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeRemaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemaining())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(printable(what), total=total)
        yield lambda count: bar.update(task, completed=count)


def _print_lines(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print each row as one line, however long, for a file or a pipe."""
    right = [_is_number(rows, index) for index in range(len(columns))]
    lines = [list(columns), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        say(_aligned(line, right, widths, gap="  ").rstrip())


def _aligned(
    cells: Sequence[str],
    right: Sequence[bool],
    widths: Sequence[int],
    *,
    gap: str = " ",
    length: Callable[[str], int] = len,
) -> str:
    """Join cells to a line, each as wide as its column."""
    parts = []
    for cell, is_right, width in zip(cells, right, widths, strict=False):
        spaces = " " * (width - length(cell))
        parts.append(spaces + cell if is_right else cell + spaces)
    return gap.join(parts)


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
    """Whether a column holds numbers, with or without a unit; False for the first column."""
    if index == 0 or all(row[index] is None for row in rows):
        return False
    return all(
        isinstance(row[index], int | float | None)
        or row[index] == NOT_AVAILABLE
        or _NUMBER.fullmatch(str(row[index])) is not None
        for row in rows
    )


def _text(cell: Any) -> str:
    return _NOTHING if cell is None else printable(str(cell))


def join_names(names: Sequence[str], most: int = 5) -> str:
    """Join the first names, and say how many there are more: ``a, b and 3 more``.

    Args:
        most: maximum number of names.
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def age(seconds: float) -> str:
    """Format a duration in its largest unit: ``45s``, ``12m``, ``3h``, ``5d``."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(0, seconds):.0f}s"
