"""``formrelay events``: how far the people who open a form come."""

from __future__ import annotations

from typing import Annotated

import typer

from ..core.clock import SYSTEM_CLOCK, iso
from ..core.errors import FormrelayError
from ..core.printable import printable
from .dlq import moment
from .funnel import (
    ANSWERED,
    FIELD,
    Question,
    Step,
    TypeCount,
    ask,
    busiest_forms,
    types_of,
    usual_steps,
)
from .funnel_view import show, to_json
from .output import JsonOption, print_json

app = typer.Typer(help="Analytics events: the funnel of a form.", no_args_is_help=True)

_MOST_STEPS = 20
#: So many forms, and types, are named to who named another.
_NAMED = 8
_DAYS = 30


class NoSuchForm(FormrelayError):
    """There is no event of this form."""


@app.callback()
def _events() -> None:
    # With it, `stats` stays a command of its own while there is no other.
    pass


@app.command()
def stats(
    form: Annotated[str, typer.Argument(metavar="FORM", help="The formId of its events.")],
    since: Annotated[
        float | None,
        typer.Option(
            parser=moment,
            metavar="TIME",
            show_default="30d",
            help="Events since: ISO 8601 (UTC), or 12h, 30d ago.",
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            show_default="viewed, started, completed",
            help="Types of events, in order; 'A|B' is one step of either.",
        ),
    ] = None,
    answered: Annotated[
        str, typer.Option(metavar="TYPE", help="The type that says that a field was answered.")
    ] = ANSWERED,
    field: Annotated[
        str, typer.Option(metavar="PROPERTY", help="The property of it that names the field.")
    ] = FIELD,
    json: JsonOption = False,
) -> None:
    """The funnel of a form: how far its sessions came, where they left, how long it took.

    A session counts at a step when it took the steps before it first, in their order.
    """
    begin = SYSTEM_CLOCK.time() - _DAYS * 86_400 if since is None else since
    chosen = usual_steps(answered) if steps is None else _steps(steps)
    # No event is older; a DateTime holds no negative number.
    question = Question(form, max(0, int(begin)), chosen, answered, field)

    from ..actors.resources import clickhouse

    client = clickhouse()
    types = types_of(client, form, question.since)
    if not types:
        raise NoSuchForm(_unknown(form, busiest_forms(client, _NAMED)))
    funnel = ask(client, question)
    if json:
        print_json(to_json(funnel))
    else:
        show(funnel, _hints(question, types))


def _steps(text: str) -> tuple[Step, ...]:
    """The steps of ``a,b|c,d``."""
    steps = [
        Step(part.strip(), tuple(kind.strip() for kind in part.split("|")))
        for part in text.split(",")
    ]
    kinds = [kind for step in steps for kind in step.types]
    problem = None
    if not all(kinds):
        problem = "one that is empty"
    elif len(set(kinds)) < len(kinds):
        problem = "one of them twice"
    elif not 2 <= len(steps) <= _MOST_STEPS:
        problem = "1" if len(steps) == 1 else f"{len(steps)}"
    if problem is not None:
        raise typer.BadParameter(
            f"expected 2 to {_MOST_STEPS} different types of events with commas between, like "
            f"form_viewed,form_submitted; got {problem} in {text!r}",
            param_hint="'--steps'",
        )
    return tuple(steps)


def _unknown(form: str, known: list[str]) -> str:
    others = ", ".join(printable(one) for one in known) or "none at all"
    return f"expected a form with events, got {form!r}; those with the most events: {others}"


def _hints(question: Question, types: list[TypeCount]) -> list[str]:
    """Why a funnel may be empty: nothing happened, or it has other names here."""
    recent = [one for one in types if one.events]
    if not recent:
        last = iso(max(one.last for one in types))[:16].replace("T", " ")
        return [f"No event since then; the last one was at {last} UTC."]
    there = {one.type for one in recent}
    missing = [step for step in question.steps if not there & set(step.types)]
    if not missing:
        return []
    wanted = ", ".join(printable(" or ".join(step.types)) for step in missing)
    found = ", ".join(f"{printable(one.type)} ({one.events:,})" for one in recent[:_NAMED])
    return [f"No event of type {wanted}. The types of this form: {found}. --steps chooses others."]
