"""Prints a funnel as JSON, as lines for a pipe, or as charts in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..core.clock import iso
from ..core.printable import printable
from .funnel import Duration, FieldCount, Funnel
from .output import make_console, print_table, say, say_error

_EIGHTHS = " ▏▎▍▌▋▊▉█"
#: Number of fields in the chart; JSON and pipes get all fields.
_MAX_FIELDS = 12
_MAX_BAR_WIDTH, _MIN_BAR_WIDTH = 40, 8


def to_json(funnel: Funnel) -> dict[str, Any]:
    """Return the funnel for ``--json``, with shares from 0 to 1 or null if undefined."""
    first = funnel.steps[0].sessions
    before = [None, *(count.sessions for count in funnel.steps)]
    return {
        "form": funnel.query.form_id,
        "since": iso(funnel.query.since),
        "steps": [
            {
                "step": count.step.name,
                "types": list(count.step.types),
                "sessions": count.sessions,
                "share_of_first": _share(count.sessions, first),
                "share_of_previous": _share(count.sessions, previous),
                "outside": count.outside,
            }
            for count, previous in zip(funnel.steps, before, strict=False)
        ],
        "drop_off": {
            "not_completed": funnel.not_completed,
            "answered_nothing": funnel.unanswered,
            "fields": [
                {
                    "field": count.name,
                    "answered": count.answered,
                    "left": count.left,
                    "share_of_answered": _share(count.left, count.answered),
                }
                for count in funnel.fields
            ],
        },
        "time_to_complete": [
            {
                "from": count.step.name,
                "sessions": count.sessions,
                "median_s": count.median,
                "p90_s": count.p90,
            }
            for count in funnel.durations
        ],
    }


def print_funnel(funnel: Funnel, hints: Sequence[str] = ()) -> None:
    """Draw the funnel on a terminal; otherwise print one line per step, field and duration.

    Args:
        hints: notes for the reader, printed on standard error outside a terminal.
    """
    console = make_console()
    if console.is_terminal:
        draw(console, funnel, hints)
        return
    _lines(funnel)
    for note in (*_notes(funnel), *hints):
        say_error(note)


def _lines(funnel: Funnel) -> None:
    columns = ("step", "sessions", "% of first", "% of previous", "outside")
    first, previous = funnel.steps[0].sessions, None
    rows = []
    for count in funnel.steps:
        of = (_percent(count.sessions, first), _percent(count.sessions, previous))
        rows.append((printable(count.step.name), count.sessions, *of, count.outside))
        previous = count.sessions
    print_table("", columns, rows, empty="")
    if funnel.fields:
        say()
        fields = [
            (_name(count), count.left, count.answered, _percent(count.left, count.answered))
            for count in funnel.fields
        ]
        print_table("", ("left after", "left", "answered", "% of answered"), fields, empty="")
    if funnel.durations:
        say()
        last = printable(funnel.steps[-1].step.name)
        times = [
            (f"{printable(count.step.name)} to {last}", *_times(count))
            for count in funnel.durations
        ]
        print_table("", ("time", "median", "90% within"), times, empty="")


def draw(console: Console, funnel: Funnel, hints: Iterable[str] = ()) -> None:
    """Draw the funnel on a terminal."""
    since = iso(funnel.query.since)[:16].replace("T", " ")
    form_id = printable(funnel.query.form_id)
    console.print(Text.assemble((form_id, "bold"), (f"  since {since} UTC\n", "dim")))
    _title(console, "Funnel", "sessions that took each step after all earlier steps")
    console.print(_steps_table(console, funnel))
    for note in (*_notes(funnel), *hints):
        console.print(Text(note + "\n", "yellow"))
    fields = [count for count in funnel.fields if count.left]
    if fields:
        leavers = sum(count.left for count in fields)
        about = f"{leavers:,} after an answer, {funnel.unanswered:,} without any answer"
        _title(console, "Left without completing", about)
        console.print(_fields_table(console, fields[:_MAX_FIELDS]))
        rest = fields[_MAX_FIELDS:]
        if rest:
            left = _many(sum(count.left for count in rest), "session")
            others = _many(len(rest), "other field")
            console.print(Text(f" and {left} after {others}: see --json\n", "dim"))
    if funnel.durations:
        last = funnel.steps[-1]
        title = f"Time until {printable(last.step.name)}"
        _title(console, title, _many(last.sessions, "session"))
        console.print(_times_table(funnel))


def _title(console: Console, title: str, about: str) -> None:
    console.print(Text.assemble((title, "bold"), (f"  {about}", "dim")))


def _steps_table(console: Console, funnel: Funnel) -> Table:
    first, previous = funnel.steps[0].sessions, None
    table = _Bars("step", ("sessions", "of first", "of previous"), "cyan")
    for count in funnel.steps:
        of = (_share_text(count.sessions, first), _share_text(count.sessions, previous))
        table.add(printable(count.step.name), count.sessions, f"{count.sessions:,}", *of)
        previous = count.sessions
    return table.to_table(console)


def _fields_table(console: Console, fields: Sequence[FieldCount]) -> Table:
    table = _Bars("last answer", ("left", "answered", "of answered"), "magenta")
    for count in fields:
        of = _share_text(count.left, count.answered)
        table.add(_name(count), count.left, f"{count.left:,}", f"{count.answered:,}", of)
    return table.to_table(console)


def _times_table(funnel: Funnel) -> Table:
    table = _table()
    table.add_column("from", no_wrap=True, overflow="ellipsis")
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("90% within", justify="right", no_wrap=True)
    for count in funnel.durations:
        table.add_row(Text(printable(count.step.name)), *_times(count))
    return table


class _Bars:
    """A table with a bar in each row, as wide as the terminal allows."""

    def __init__(self, what: str, headers: Sequence[str], style: str) -> None:
        self._what, self._headers, self._style = what, headers, style
        self._rows: list[tuple[str, int, Sequence[str]]] = []

    def add(self, name: str, value: int, *cells: str) -> None:
        self._rows.append((name, value, cells))

    def to_table(self, console: Console) -> Table:
        names = max(cell_len(name) for name in (self._what, *(row[0] for row in self._rows)))
        names = min(names, console.width // 3)
        texts = (self._headers, *(row[2] for row in self._rows))
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        # Three spaces separate two columns, and each edge has one space.
        room = console.width - names - sum(widths) - 3 * (len(widths) + 1) - 2
        bar_width = max(_MIN_BAR_WIDTH, min(_MAX_BAR_WIDTH, room))
        table = _table()
        table.add_column(self._what, no_wrap=True, overflow="ellipsis", max_width=names)
        table.add_column("", no_wrap=True, min_width=bar_width)
        for header in self._headers:
            table.add_column(header, justify="right", no_wrap=True)
        longest = max(row[1] for row in self._rows)
        for name, value, cells in self._rows:
            drawn = Text(bar(value, longest, bar_width), self._style)
            table.add_row(Text(name), drawn, *cells)
        return table


def _table() -> Table:
    return Table(header_style="dim", box=box.SIMPLE_HEAD, pad_edge=False)


def bar(value: int, longest: int, width: int) -> str:
    """Return ``value`` as a bar of at most ``width`` characters, in eighths of a character.

    The value ``longest`` has the full width. A value above 0 has at least one eighth.
    """
    if not value or not longest:
        return ""
    whole, eighths = divmod(max(1, value * width * 8 // longest), 8)
    return "█" * whole + _EIGHTHS[eighths].strip()


def _notes(funnel: Funnel) -> Iterator[str]:
    for count in funnel.steps:
        if count.outside:
            step = printable(count.step.name)
            yield (
                f"Not counted: {_many(count.outside, 'session')} with {step!r} "
                "but without every step before it."
            )


def _times(count: Duration) -> tuple[str, str]:
    return duration(count.median), duration(count.p90)


def duration(seconds: float) -> str:
    """Format a duration: ``0.4 s``, ``42 s``, ``3 min 07 s``, ``2 h 05 min``, ``3 d 4 h``."""
    if seconds < 10 and seconds != int(seconds):
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _name(count: FieldCount) -> str:
    return printable(count.name) or "(no name)"


def _share(part: int, whole: int | None) -> float | None:
    return round(part / whole, 4) if whole else None


def _percent(part: int, whole: int | None) -> float | None:
    return round(100 * part / whole, 1) if whole else None


def _share_text(part: int, whole: int | None) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
