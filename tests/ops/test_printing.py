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
