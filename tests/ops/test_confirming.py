"""Questions before a command destroys something."""

from __future__ import annotations

import os
import pty
import select
from collections.abc import Callable, Iterator
from io import StringIO

import pytest
import typer

from formrelay.ops.cli.confirm import confirm


def read_question(terminal: int) -> str:
    """Read up to the end of the question; the system may give it in pieces."""
    shown = b""
    while b"[y/N]" not in shown and select.select([terminal], [], [], 20)[0]:
        shown += os.read(terminal, 10_000)
    return shown.decode()


Typed = Callable[[bytes], Callable[[], str]]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Typed]:
    """Types on a terminal; returns a function that gives what is shown there."""
    main, other = pty.openpty()
    with open(other) as stdin, open(os.dup(other), "w") as stderr:

        def typed(text: bytes) -> Callable[[], str]:
            # Here, because pytest sets its own streams after the fixtures.
            monkeypatch.setattr("sys.stdin", stdin)
            monkeypatch.setattr("sys.stderr", stderr)
            os.write(main, text)
            return lambda: read_question(main)

        yield typed
    os.close(main)


@pytest.mark.parametrize("answer", [b"y\n", b"Yes \n"])
def test_a_terminal_is_asked_and_yes_goes_on(terminal: Typed, answer: bytes) -> None:
    shown = terminal(answer)
    confirm("Delete 12 waiting messages of queue 'x'", yes=False)
    assert "Delete 12 waiting messages of queue 'x'? [y/N]" in shown()


@pytest.mark.parametrize("answer", [b"n\n", b"\n", b"sure\n", b"\x04"])
def test_every_other_answer_aborts(terminal: Typed, answer: bytes) -> None:
    terminal(answer)
    with pytest.raises(typer.Abort):
        confirm("Delete 12 messages", yes=False)


def test_a_question_escapes_control_characters(terminal: Typed) -> None:
    shown = terminal(b"y\n")
    confirm("Delete queue '\x1b[2J'", yes=False)
    assert r"\x1b[2J" in shown()


def test_the_option_answers_on_a_terminal(terminal: Typed) -> None:
    terminal(b"n\n")
    confirm("Delete 12 messages", yes=True)


def test_a_script_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", StringIO("n\n"))
    confirm("Delete 12 messages", yes=False)
