"""Only one module prints; all others call it."""

from __future__ import annotations

import ast
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from formrelay.ops import output
from tests.support.checkout import ROOT

#: Folders whose code prints on an operator's terminal.
FOLDERS = ("actors", "brokers", "config", "core", "djangoapp", "endpoints", "middleware")
FOLDERS += ("ops", "sinks", "src", "state")
THE_ONE = Path("ops/output.py")
#: Ways to print: the last part of the names of functions and streams.
PRINTERS = {"print", "pprint", "echo", "secho", "Console", "print_exc", "print_exception"}
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}


def printing(tree: ast.AST) -> Iterator[int]:
    """Numbers of the lines that print."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
        owner = getattr(called, "value", None)
        if name in ("print",) and isinstance(owner, ast.Name) and owner.id == "console":
            continue  # made by make_console
        if name in PRINTERS:
            yield node.lineno
        if name in ("write", "writelines") and getattr(owner, "attr", "") in STREAMS:
            yield node.lineno


def test_no_other_module_prints() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 150
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in files
        if path.relative_to(ROOT) != THE_ONE
        for line in printing(ast.parse(path.read_text()))
    ]
    assert found == []


def test_the_search_finds_code_that_prints() -> None:
    code = "print(1)\nsys.stdout.write('')\ntyper.echo('')\nConsole()\nconsole.print('')"
    assert list(printing(ast.parse(code))) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("first", "second"),
    [("Q" * 36, "Z" * 90), ("Q" * 100, "Z" * 9), ("Q" * 300, "Z" * 300), ("Q" * 9, "Z" * 90)],
    ids=["both long", "long id", "very long", "short id"],
)
def test_a_table_on_a_narrow_terminal_cuts_nothing_off(
    first: str, second: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    row = [first, "deliver_webhook", "12m ago", 10, second]
    output.print_table("T", ["id", "actor", "died", "attempts", "why"], [row], empty="")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 80
    for text in (first, second):
        parts = [part for line in lines for part in re.findall(f"{text[0]}+", line)]
        assert "".join(parts) == text
    short = [line for line in lines if "deliver_webhook" in line]
    assert len(short) == 1
    assert len(lines) < 25  # no column has one character in each line


def on_80_columns(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    columns: list[str],
    rows: list[list[object]],
) -> list[str]:
    """Lines of a table on a terminal of 80 columns, without styles and spaces at their ends."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    output.print_table("T", columns, rows, empty="")
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    return [line.rstrip() for line in text.splitlines()]


ID = "c8920e1c-560d-4397-bbb9-8a8d682d3421"
LONG = "a-very-long-name-of-another-team-for-invoices-and-reminders"


def test_the_widest_columns_are_below_ids_that_stay_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[list[object]] = [[ID, LONG, "2m ago", 1, "ValueError: no"], [ID, "x", "1m", 2, None]]
    columns = ["id", "actor", "died", "attempts", "why"]
    assert on_80_columns(monkeypatch, capsys, columns, rows) == [
        "T",
        "id                                   died   attempts",
        "  why",
        f"{ID} 2m ago        1",
        f"  actor: {LONG}",
        "  ValueError: no",
        f"{ID} 1m            2",
        "  actor: x",
    ]


def test_a_long_name_has_a_line_of_its_own_and_other_rows_stay_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["queue", "waiting", "scheduled", "in_flight", "dead", "jobs/s", "errors", "state"]
    rows: list[list[object]] = [
        [LONG, 1, 0, 0, 2, "0.5", "7%", "paused"],
        ["emails", 3, 0, 0, 0, "0", "0%", None],
    ]
    lines = on_80_columns(monkeypatch, capsys, names, rows)
    assert lines[2] == LONG
    assert lines[3].split() == ["1", "0", "0", "2", "0.5", "7%", "paused"]
    assert lines[4].split() == ["emails", "3", "0", "0", "0", "0", "0%", "–"]
    assert lines[4].index("3") == lines[3].index("1")
    assert len(lines) == 5


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_that_a_stream_cannot_encode_are_escaped(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding))
    output.say("ä ☃")
    output.print_json({"a": "ä ☃ 👩"})
    output.print_table("", ["a"], [["☃"]], empty="")
    sys.stdout.flush()
    said = raw.getvalue().decode(encoding)
    if encoding == "utf-8":
        assert said == 'ä ☃\n{\n  "a": "ä ☃ 👩"\n}\na\n☃\n'
    else:
        assert '\\u2603\n{\n  "a": "\\u00e4 \\u2603 \\ud83d\\udc69"\n}\na\n\\u2603\n' in said


def test_the_first_names_are_joined_and_the_others_counted() -> None:
    names = [str(number) for number in range(1_005)]
    assert output.join_names(names[:1]) == "0"
    assert output.join_names(names[:5]) == "0, 1, 2, 3, 4"
    assert output.join_names(names, 2) == "0, 1 and 1,003 more"
