"""Rules that every command keeps, checked on the tree of commands.

A new command that breaks a rule fails here; an exception needs a reason in this file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from formrelay.ops.cli.app import app, command

#: Commands without --json, and what they print instead of a table.
NO_JSON = {
    "worker": "runs until it is stopped, and logs",
    "dashboard": "runs until it is stopped",
    "metrics": "runs until it is stopped; --once prints what Prometheus reads",
    "schema": "always prints JSON",
    "dlq export": "writes NDJSON",
    "email preview": "writes a file",
    "completion": "prints a script",
}
#: Commands without --import: neither they nor the settings they read depend on actors.
NO_IMPORT = ("config", "schema", "demo", "audit", "version", "completion")
NO_IMPORT_GROUPS = ("events", "email", "suppressions", "sheets")
#: What a command that destroys something says in the first sentence of its help.
DESTROYS = re.compile(r"\b(delete|remove|purge|disable|forget)\b", re.IGNORECASE)
#: Commands whose sentence only mentions such a word.
DESTROYS_NOTHING = {
    "queues": "names what its commands do",
    "webhooks endpoints": "names what its commands do",
    "sheets connections": "names what its commands do",
}
WIDTH = 80


def leaves(found: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Words and command of each command, also of groups that are commands themselves."""
    children = getattr(found, "commands", {})
    if path and (not children or found.invoke_without_command):
        yield " ".join(path), found
    for name, child in children.items():
        yield from leaves(child, (*path, name))


COMMANDS = dict(leaves(command()))
every_command = pytest.mark.parametrize("words", COMMANDS)


def flags(words: str) -> set[str]:
    """Flags of the options of a command."""
    every = {flag for each in COMMANDS[words].params for flag in each.opts}
    return {flag for flag in every if flag.startswith("-")}


def parse(words: str, arguments: list[str]) -> dict[str, Any]:
    """Values of the parameters of a command."""
    parsed: dict[str, Any] = COMMANDS[words].make_context(words, arguments).params
    return parsed


def example(words: str) -> list[str]:
    """Words of the example in the help of a command."""
    found = re.search(r"Example: (.+)", COMMANDS[words].help)
    assert found, f"{words}: expected a line 'Example: formrelay {words} …' in its help"
    return shlex.split(found[1].partition(" > ")[0])


@every_command
def test_an_example_is_a_valid_call_of_the_command(words: str) -> None:
    program, *arguments = example(words)
    assert program == "formrelay"
    path = words.split()
    assert arguments[: len(path)] == path
    parse(words, arguments[len(path) :])  # raises a usage error


@every_command
def test_what_prints_a_table_prints_json_too(words: str) -> None:
    assert ("--json" in flags(words)) is (words not in NO_JSON)


@every_command
def test_commands_that_know_actors_import_those_of_the_user(words: str) -> None:
    exempt = words in NO_IMPORT or words.split()[0] in NO_IMPORT_GROUPS
    assert ("--import" in flags(words)) is not exempt


@every_command
def test_what_destroys_asks_unless_yes(words: str) -> None:
    first = COMMANDS[words].help.partition("\n\n")[0]
    if words not in DESTROYS_NOTHING and DESTROYS.search(f"{words} {first}"):
        assert {"--yes", "-y"} <= flags(words)


@every_command
def test_ids_are_read_as_printed_and_taken_by_a_unique_prefix(words: str) -> None:
    for each in COMMANDS[words].params:
        if (each.metavar or "") in ("ID", "ID...") and each.param_type_name == "argument":
            id = parse(words, [r"a\x1bb"])[each.name]
            assert id in ("a\x1bb", ["a\x1bb"])
            assert "prefix" in each.help or each.help.startswith("Whole id"), each.help


@every_command
def test_every_parameter_has_a_help_text(words: str) -> None:
    for each in COMMANDS[words].params:
        assert each.help, f"{words}: {each.name} has no help"
        assert each.help.rstrip().endswith((".", ")", "…")), each.help


@every_command
def test_help_fits_a_terminal_and_cuts_nothing(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("TERMINAL_WIDTH", str(WIDTH))
    shown = CliRunner().invoke(app, [*words.split(), "--help"]).stdout
    assert max(map(len, shown.splitlines())) <= WIDTH
    assert flags(words) <= set(re.findall(r"--?[a-z][a-z-]*", shown))
    for line in COMMANDS[words].help.splitlines():  # rich keeps their line breaks
        assert line.strip() in shown, f"longer than {WIDTH - 2} characters: {line}"
