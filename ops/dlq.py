"""``formrelay dlq``: find, read, replay and delete dead letters."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ..brokers import DeadFilter, Entry, Inspector, get_broker
from ..core.clock import SYSTEM_CLOCK
from ..core.errors import FormrelayError
from ..core.failure import Reason
from ..core.printable import shown_id
from .boot import check_queues, declare_actors
from .jobs import as_json, why, with_message
from .output import (
    DryRunOption,
    JsonOption,
    age,
    counting,
    print_json,
    print_table,
    read_id_argument,
    say,
    say_error,
    short,
)

app = typer.Typer(help="Dead letters: list, show, replay, delete.", no_args_is_help=True)

_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
#: So many are named where the beginning of an id means several.
_CANDIDATES = 5
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class NoSuchDeadLetter(FormrelayError):
    """There is no such dead letter."""


def moment(text: str) -> float:
    """Unix seconds of ``2026-01-31T09:30`` (UTC, unless it says otherwise) or of ``2h`` ago."""
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return SYSTEM_CLOCK.time() - float(ago[1]) * _SECONDS[ago[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"expected a time like 2026-01-31T09:30 or 2h, 3d ago, got {text!r}"
        ) from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


QueueOption = Annotated[
    str | None, typer.Option("--queue", "-q", help="Only this queue; default: all.")
]
ActorOption = Annotated[str | None, typer.Option(help="Only of this actor.")]
ErrorOption = Annotated[
    str | None, typer.Option(help="Only with this exception: its type, or its last part.")
]
ReasonOption = Annotated[Reason | None, typer.Option(help="Only for this reason.")]
SinceOption = Annotated[
    float | None,
    typer.Option(parser=moment, metavar="TIME", help="Died since: ISO 8601 (UTC), or 2h, 3d ago."),
]
UntilOption = Annotated[
    float | None, typer.Option(parser=moment, metavar="TIME", help="Died before: likewise.")
]
FormOption = Annotated[str | None, typer.Option(help="Only about the form with this id.")]
LimitOption = Annotated[int, typer.Option(min=1, help="At most so many.")]
IdArgument = Annotated[
    str,
    typer.Argument(
        parser=read_id_argument, metavar="ID", help="Id as it is listed, or a unique prefix."
    ),
]
IdsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        parser=read_id_argument, metavar="ID...", help="Ids as they are listed, or unique prefixes."
    ),
]
AllOption = Annotated[bool, typer.Option("--all", help="Every one (of --queue).")]


@app.command("list")
def list_(
    queue: QueueOption = None,
    actor: ActorOption = None,
    error: ErrorOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    form: FormOption = None,
    limit: LimitOption = 50,
    json: JsonOption = False,
) -> None:
    """What died, when and why; the oldest of each queue first."""
    which = DeadFilter(queue, actor, error, reason, since, until, form)
    letters = list(_inspector(queue).dead_letters(which, limit=limit + 1))
    if len(letters) > limit:
        letters.pop()
        say_error(f"there are more than --limit {limit}")
    if json:
        print_json([as_json(letter) for letter in letters])
        return
    now = get_broker().clock.time()
    columns = ["id", "actor", "died", "tries", "why"]
    rows = [_row(letter, now) for letter in letters]
    print_table("Dead letters", columns, rows, empty="no dead letters")


def _row(letter: Entry, now: float) -> tuple[Any, ...]:
    return (
        short(letter.id),
        letter.message.actor_name,
        None if letter.died is None else f"{age(now - letter.died)} ago",
        None if letter.failure is None else letter.failure.attempt,
        why(letter),
    )


@app.command()
def show(id: IdArgument, queue: QueueOption = None) -> None:
    """One dead letter whole as JSON. Its payload is included: mind who looks."""
    inspector = _inspector(queue)
    where, whole = _resolved(inspector, id, queue)
    found = inspector.dead_letter(where, whole)
    if found is None:
        raise NoSuchDeadLetter(f"the dead letter '{shown_id(id)}' has just gone")
    print_json(with_message(found))


@app.command()
def replay(
    ids: IdsArgument = None,
    queue: QueueOption = None,
    actor: ActorOption = None,
    error: ErrorOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    form: FormOption = None,
    every: AllOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Put dead letters back on their queue, attempts at zero: by id, or by filter."""
    which = DeadFilter(queue, actor, error, reason, since, until, form)
    _act("replayed", ids, which, every=every, dry_run=dry_run, json=json)


@app.command()
def delete(
    ids: IdsArgument = None,
    queue: QueueOption = None,
    actor: ActorOption = None,
    error: ErrorOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    form: FormOption = None,
    every: AllOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Delete dead letters for good: by id, or by filter."""
    which = DeadFilter(queue, actor, error, reason, since, until, form)
    _act("deleted", ids, which, every=every, dry_run=dry_run, json=json)


def _act(
    done: str,
    ids: list[str] | None,
    which: DeadFilter,
    *,
    every: bool,
    dry_run: bool,
    json: bool,
) -> None:
    is_filter = replace(which, queue=None) != DeadFilter()
    if bool(ids) + (every or is_filter) != 1:
        raise typer.BadParameter(
            "name the ids of dead letters, or a filter other than --queue, or --all"
        )
    inspector = _inspector(which.queue)
    action = inspector.replay if done == "replayed" else inspector.delete_dead
    by_queue: defaultdict[str, list[str]] = defaultdict(list)
    # All are found first: with one of them wrong, nothing is done.
    for id in ids or ():
        where, whole = _resolved(inspector, id, which.queue)
        by_queue[where].append(whole)
    with counting(done) as progress:
        if ids:
            count = sum(
                action(its, queue=queue, dry_run=dry_run) for queue, its in by_queue.items()
            )
        else:
            count = action(which, dry_run=dry_run, progress=progress)
    if json:
        print_json({done: count, "dry_run": dry_run})
    else:
        say(f"would be {done}: {count}" if dry_run else f"{done}: {count}")


def _resolved(inspector: Inspector, id: str, queue: str | None) -> tuple[str, str]:
    """Queue and whole id of the one dead letter whose id begins so."""
    if not id:  # every id begins so, and a variable of a shell may be unset
        raise typer.BadParameter("expected the id of a dead letter, got an empty text")
    found = inspector.dead_ids(id, queue, limit=_CANDIDATES + 1)
    if not found:
        raise NoSuchDeadLetter(
            f"there is no dead letter '{shown_id(id)}'; formrelay dlq list shows them"
        )
    if len(found) > 1:
        names = [f"{shown_id(whole)} ({where})" for where, whole in found[:_CANDIDATES]]
        names += ["and more"] if len(found) > _CANDIDATES else []
        raise typer.BadParameter(
            f"expected the id of one dead letter, '{shown_id(id)}' begins several: "
            f"{', '.join(names)}"
        )
    return found[0]


def _inspector(queue: str | None) -> Inspector:
    declare_actors()
    check_queues([queue] if queue is not None else None)
    return get_broker().inspector
