"""``formrelay events``: the funnel of a form."""

from __future__ import annotations

from typing import Annotated

import typer

from ...core.clock import SYSTEM_CLOCK, iso
from ...core.errors import FormrelayError
from ...core.printable import printable
from ..funnel import (
    ANSWERED,
    FIELD,
    FunnelQuery,
    Step,
    TypeCount,
    busiest_forms,
    count_funnel,
    default_steps,
    types_of,
)
from ..funnel_view import print_funnel, to_json
from ..output import print_json
from .options import JsonOption, time_option

app = typer.Typer(help="Show analytics of a form.", no_args_is_help=True)

_MAX_STEPS = 20
#: Number of forms and event types named in hints.
_MAX_HINTS = 8
_DEFAULT_DAYS = 30

StepsOption = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,C",
        show_default="viewed, started, completed",
        help="Event types, in order. 'A|B' is one step with two types.",
    ),
]


class NoSuchForm(FormrelayError):
    """The form has no events."""


@app.callback()
def _events() -> None:
    # Keeps `stats` a subcommand while it is the only one.
    pass


@app.command()
def stats(
    form: Annotated[str, typer.Argument(metavar="FORM", help="Form id (formId of its events).")],
    since: Annotated[
        float | None,
        time_option(
            "Count events from this time: ISO 8601 (UTC), or an age like 12h or 30d.",
            show_default="30d",
        ),
    ] = None,
    steps: StepsOption = None,
    answered: Annotated[
        str, typer.Option(metavar="TYPE", help="Event type of an answered field.")
    ] = ANSWERED,
    field: Annotated[
        str,
        typer.Option(metavar="PROPERTY", help="Event property that holds the name of the field."),
    ] = FIELD,
    json: JsonOption = False,
) -> None:
    """Show the funnel of a form.

    It has the sessions by step, where they left, and the time to complete.
    A session counts at a step only if it took all earlier steps first, in
    order.

    Example: formrelay events stats FORM --steps form_viewed,form_submitted
    """
    begin = SYSTEM_CLOCK.time() - _DEFAULT_DAYS * 86_400 if since is None else since
    chosen = default_steps(answered) if steps is None else _steps(steps)
    # ClickHouse's DateTime starts at 0.
    query = FunnelQuery(form, max(0, int(begin)), chosen, answered, field)

    from ...actors.resources import clickhouse

    client = clickhouse()
    types = types_of(client, form, query.since)
    if not types:
        raise NoSuchForm(_unknown(form, busiest_forms(client, _MAX_HINTS)))
    funnel = count_funnel(client, query)
    if json:
        print_json(to_json(funnel))
    else:
        print_funnel(funnel, _hints(query, types))


def _steps(text: str) -> tuple[Step, ...]:
    """Parse the steps in ``a,b|c,d``."""
    steps = [
        Step(part.strip(), tuple(kind.strip() for kind in part.split("|")))
        for part in text.split(",")
    ]
    kinds = [kind for step in steps for kind in step.types]
    problem = None
    if not all(kinds):
        problem = "an empty event type"
    elif len(set(kinds)) < len(kinds):
        problem = "a duplicate event type"
    elif not 2 <= len(steps) <= _MAX_STEPS:
        problem = "1 event type" if len(steps) == 1 else f"{len(steps)} event types"
    if problem is not None:
        raise typer.BadParameter(
            f"expected 2 to {_MAX_STEPS} different event types separated by commas, like "
            f"form_viewed,form_submitted; got {problem} in {text!r}",
            param_hint="'--steps'",
        )
    return tuple(steps)


def _unknown(wanted: str, known: list[str]) -> str:
    others = ", ".join(printable(form) for form in known) or "none"
    return f"expected a form with events, got {wanted!r}; forms with the most events: {others}"


def _hints(query: FunnelQuery, types: list[TypeCount]) -> list[str]:
    """Explain an empty funnel: no events in the period, or other event types."""
    recent = [found for found in types if found.events]
    if not recent:
        last = iso(max(found.last for found in types))[:16].replace("T", " ")
        return [f"No events in this period; the last event was at {last} UTC."]
    there = {found.type for found in recent}
    missing = [step for step in query.steps if there.isdisjoint(step.types)]
    if not missing:
        return []
    wanted = ", ".join(printable(" or ".join(step.types)) for step in missing)
    existing = ", ".join(
        f"{printable(kind.type)} ({kind.events:,})" for kind in recent[:_MAX_HINTS]
    )
    noun = "type" if sum(len(step.types) for step in missing) == 1 else "types"
    return [f"No events of {noun} {wanted}. This form has: {existing}. Choose types with --steps."]
