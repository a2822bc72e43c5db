"""Asks on a terminal before a command destroys something."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..output import ask, say_error

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def can_ask() -> bool:
    """Whether a person can answer: standard input and standard error are terminals."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(what: str, *, yes: bool) -> None:
    """Ask whether to do something that cannot be undone.

    Only asks if a person can answer (:func:`can_ask`). In scripts, cron jobs and pipes the command
    goes on without asking. The question is on standard error, so that ``--json`` and pipes of
    standard output stay valid.

    Args:
        what: what will be done to what, with the number, without a question mark:
            ``Delete 12 waiting messages of queue 'x'``.
        yes: the option ``--yes``.

    Raises:
        typer.Abort: the answer is not yes. Nothing has been changed; the exit status is 1.
    """
    if yes or not can_ask():
        return
    if ask(f"{what}? [y/N] ").strip().lower() not in ("y", "yes"):
        say_error("nothing was changed")
        raise typer.Abort
