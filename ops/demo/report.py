"""The result of the demo: actual and expected counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...core.failure import Failure
from .environment import RETRY_DELAYS


@dataclass(frozen=True, slots=True)
class Number:
    """A row of the result table.

    Attributes:
        key: name in the JSON output.
        actual: None if not available.
        note: source of the count.
    """

    key: str
    label: str
    expected: int
    actual: int | None
    note: str = ""

    @property
    def right(self) -> bool:
        return self.actual == self.expected


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The result of a run.

    Attributes:
        problem: why the run stopped early.
        by_type: event type to number of rows in ClickHouse.
        first_dead: failure record of the first dead letter.
    """

    numbers: Sequence[Number]
    seconds: float
    by_type: Mapping[str, int]
    first_dead: Failure | None = None
    problem: str | None = None

    @property
    def right(self) -> bool:
        """Whether every count is right and the run did not stop early."""
        return self.problem is None and all(number.right for number in self.numbers)

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "ok": self.right,
            "seconds": round(self.seconds, 2),
            "numbers": {number.key: number.actual for number in self.numbers},
            "expected": {number.key: number.expected for number in self.numbers},
            "rows_by_type": dict(self.by_type),
            "first_dead_letter": self.first_dead.to_json() if self.first_dead else None,
            "problem": self.problem,
        }


def print_services(console: Console, how_many: int, *, api: str, receiver: str, smtp: str) -> None:
    """Print which services run, and where."""
    waits = RETRY_DELAYS.partition(",")[2].replace(",", ", ")
    for name, text in (
        ("answers", f"{how_many} of the American National Election Study of 1996"),
        ("broker", "embedded: a real Valkey server, started for this run"),
        ("ClickHouse", "embedded: the real engine (chdb), inside the events worker"),
        ("API", f"{api}, the Django project of examples/django_site"),
        ("receiver", f"{receiver}, checks signatures with standardwebhooks"),
        ("SMTP server", f"{smtp}, with TLS and a login (aiosmtpd)"),
        ("spreadsheet", "a small stand-in for Google Sheets, which loses every third answer"),
        ("workers", "2 × python -m dramatiq formrelay.worker"),
        ("retries", f"webhooks: after {waits} s here; by default after 30 s … 24 h"),
    ):
        console.print(Text.assemble((f"{name:<12}", "dim"), text))
    console.print()


def print_result(console: Console, result: DemoResult) -> None:
    """Print the result table and the verdict."""
    console.print(_table(result.numbers))
    console.print()
    for name, text in _details(result):
        console.print(Text.assemble((f"{name:<12}", "dim"), text))
    console.print(_verdict(result), soft_wrap=True)


def _table(numbers: Sequence[Number]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for number in numbers:
        shown = "?" if number.actual is None else f"{number.actual:,}"
        if number.right:
            mark, note = Text("✓", "green"), Text(number.note, "dim")
        else:
            mark, note = Text("✗", "bold red"), Text(f"expected {number.expected:,}", "red")
        style = "bold" if number.right else "bold red"
        table.add_row(mark, number.label, Text(shown, style), note)
    return table


def _details(result: DemoResult) -> Iterator[tuple[str, str]]:
    if result.by_type:
        counted = (f"{kind} {rows:,}" for kind, rows in result.by_type.items())
        yield "rows", " · ".join(counted)
    failure = result.first_dead
    if failure is not None:
        yield "dead letter", f"{failure.message} ({failure.reason}, attempt {failure.attempt})"
        where = failure.where[-1] if failure.where else failure.error
        yield "", f"{failure.at[:19]}Z · {where} · {failure.worker}"
    if result.by_type or failure is not None:
        yield "", ""


def _verdict(result: DemoResult) -> Text:
    if result.right:
        return Text(f"Every number is right, after {result.seconds:.0f} s.", "bold green")
    wrong = ", ".join(number.label.strip() for number in result.numbers if not number.right)
    verdict = Text(f"Wrong after {result.seconds:.0f} s: {wrong or 'see below'}.", "bold red")
    return verdict if result.problem is None else verdict.append(f"\n{result.problem}", "red")
