"""A funnel as a program reads it, as lines, and drawn in a terminal."""

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
#: So many fields are drawn; who wants all has ``--json``, or a pipe.
_FIELDS_DRAWN = 12
_WIDEST_BAR, _NARROWEST_BAR = 40, 8


def to_json(funnel: Funnel) -> dict[str, Any]:
    """For ``--json``: shares from 0 to 1, null where there is nothing to have a share of."""
    first = funnel.steps[0].sessions
    before = [None, *(one.sessions for one in funnel.steps)]
    return {
        "form": funnel.question.form_id,
        "since": iso(funnel.question.since),
        "steps": [
            {
                "step": one.step.name,
                "types": list(one.step.types),
                "sessions": one.sessions,
                "share_of_first": _share(one.sessions, first),
                "share_of_previous": _share(one.sessions, previous),
                "outside": one.outside,
            }
            for one, previous in zip(funnel.steps, before, strict=False)
        ],
        "drop_off": {
            "not_completed": funnel.not_completed,
            "answered_nothing": funnel.unanswered,
            "fields": [
                {
                    "field": one.name,
                    "answered": one.answered,
                    "left": one.left,
                    "share_of_answered": _share(one.left, one.answered),
                }
                for one in funnel.fields
            ],
        },
        "time_to_complete": [
            {
                "from": one.step.name,
                "sessions": one.sessions,
                "median_s": one.median,
                "p90_s": one.p90,
            }
            for one in funnel.durations
        ],
    }


def show(funnel: Funnel, hints: Sequence[str] = ()) -> None:
    """Draw it in a terminal; else one line a step, a field, a duration.

    Args:
        hints: what a reader should know beside the figures; not among the lines.
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
    for one in funnel.steps:
        of = (_percent(one.sessions, first), _percent(one.sessions, previous))
        rows.append((printable(one.step.name), one.sessions, *of, one.outside))
        previous = one.sessions
    print_table("", columns, rows, empty="")
    if funnel.fields:
        say()
        fields = [
            (_name(one), one.left, one.answered, _percent(one.left, one.answered))
            for one in funnel.fields
        ]
        print_table("", ("left after", "left", "answered", "% of answered"), fields, empty="")
    if funnel.durations:
        say()
        last = printable(funnel.steps[-1].step.name)
        times = [
            (f"{printable(one.step.name)} to {last}", *_times(one)) for one in funnel.durations
        ]
        print_table("", ("time", "median", "90% within"), times, empty="")


def draw(console: Console, funnel: Funnel, hints: Iterable[str] = ()) -> None:
    """As :func:`show` on a terminal."""
    since = iso(funnel.question.since)[:16].replace("T", " ")
    form_id = printable(funnel.question.form_id)
    console.print(Text.assemble((form_id, "bold"), (f"  since {since} UTC\n", "dim")))
    _title(console, "Funnel", "sessions that took a step after those before it")
    console.print(_steps_table(console, funnel))
    for note in (*_notes(funnel), *hints):
        console.print(Text(note + "\n", "yellow"))
    fields = [one for one in funnel.fields if one.left]
    if fields:
        leavers = sum(one.left for one in fields)
        about = f"{leavers:,} after an answer, {funnel.unanswered:,} without one"
        _title(console, "Left without completing", about)
        console.print(_fields_table(console, fields[:_FIELDS_DRAWN]))
        rest = fields[_FIELDS_DRAWN:]
        if rest:
            left = _many(sum(one.left for one in rest), "session")
            others = _many(len(rest), "other field")
            console.print(Text(f" and {left} after {others}: --json has them\n", "dim"))
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
    for one in funnel.steps:
        of = (_share_text(one.sessions, first), _share_text(one.sessions, previous))
        table.add(printable(one.step.name), one.sessions, f"{one.sessions:,}", *of)
        previous = one.sessions
    return table.drawn(console)


def _fields_table(console: Console, fields: Sequence[FieldCount]) -> Table:
    table = _Bars("last answer", ("left", "answered", "of answered"), "magenta")
    for one in fields:
        of = _share_text(one.left, one.answered)
        table.add(_name(one), one.left, f"{one.left:,}", f"{one.answered:,}", of)
    return table.drawn(console)


def _times_table(funnel: Funnel) -> Table:
    table = _table()
    table.add_column("from", no_wrap=True, overflow="ellipsis")
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("90% within", justify="right", no_wrap=True)
    for one in funnel.durations:
        table.add_row(Text(printable(one.step.name)), *_times(one))
    return table


class _Bars:
    """A table with a bar in each row, as wide as the terminal has room for."""

    def __init__(self, what: str, headers: Sequence[str], style: str) -> None:
        self._what, self._headers, self._style = what, headers, style
        self._rows: list[tuple[str, int, Sequence[str]]] = []

    def add(self, name: str, value: int, *cells: str) -> None:
        self._rows.append((name, value, cells))

    def drawn(self, console: Console) -> Table:
        names = max(cell_len(name) for name in (self._what, *(row[0] for row in self._rows)))
        names = min(names, console.width // 3)
        texts = (self._headers, *(row[2] for row in self._rows))
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        # Three blanks stand between two columns, and one at either edge.
        room = console.width - names - sum(widths) - 3 * (len(widths) + 1) - 2
        bar_width = max(_NARROWEST_BAR, min(_WIDEST_BAR, room))
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
    """``value`` of ``longest`` as a bar of at most ``width`` characters, to an eighth of one.

    What is not nothing is never drawn as nothing.
    """
    if not value or not longest:
        return ""
    whole, eighths = divmod(max(1, value * width * 8 // longest), 8)
    return "█" * whole + _EIGHTHS[eighths].strip()


def _notes(funnel: Funnel) -> Iterator[str]:
    for one in funnel.steps:
        if one.outside:
            yield (
                f"Not counted: {_many(one.outside, 'session')} with {printable(one.step.name)!r} "
                "but without every step before it."
            )


def _times(one: Duration) -> tuple[str, str]:
    return duration(one.median), duration(one.p90)


def duration(seconds: float) -> str:
    """For people: ``0.4 s``, ``42 s``, ``3 min 07 s``, ``2 h 05 min``, ``3 d 4 h``."""
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


def _name(one: FieldCount) -> str:
    return printable(one.name) or "(no name)"


def _share(part: int, whole: int | None) -> float | None:
    return round(part / whole, 4) if whole else None


def _percent(part: int, whole: int | None) -> float | None:
    return round(100 * part / whole, 1) if whole else None


def _share_text(part: int, whole: int | None) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
