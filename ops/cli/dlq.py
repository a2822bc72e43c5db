"""``formrelay dlq``: find, read, replay and delete dead letters."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Annotated, Any

import typer

from ...brokers import DeadFilter, Entry, Inspector, get_broker
from ...core.errors import FormrelayError
from ...core.failure import Reason
from ...core.printable import shown_id
from ..output import age, counting, print_json, print_table, say, say_error
from .jobs import as_json, why, with_message
from .options import (
    CANDIDATES,
    DryRunOption,
    JsonOption,
    LimitOption,
    QueueOption,
    id_argument,
    note_hidden_queues,
    only_match,
    open_inspector,
    show_parameters,
    time_option,
)

app = typer.Typer(help="List, show, replay and delete dead letters.", no_args_is_help=True)


class NoSuchDeadLetter(FormrelayError):
    """There is no such dead letter."""


def _reason(text: str) -> Reason:
    try:
        return Reason(text.replace("-", "_"))
    except ValueError:
        names = ", ".join(Reason)
        raise typer.BadParameter(f"expected one of {names}, got {text!r}") from None


def _filter(
    queue: QueueOption = None,
    actor: Annotated[str | None, typer.Option(help="Only jobs of this actor.")] = None,
    error: Annotated[
        str | None, typer.Option(help="Only this exception type; the module may be omitted.")
    ] = None,
    reason: Annotated[
        Reason | None,
        typer.Option(
            parser=_reason, metavar="REASON", help="Only this reason, for example crash_loop."
        ),
    ] = None,
    since: Annotated[
        float | None,
        time_option("Dead-lettered at or after: ISO 8601 (UTC), or an age like 2h or 3d."),
    ] = None,
    until: Annotated[float | None, time_option("Dead-lettered before this time.")] = None,
    form: Annotated[str | None, typer.Option(help="Only jobs of the form with this id.")] = None,
) -> DeadFilter:
    return DeadFilter(queue, actor, error, reason, since, until, form)


def _with_filter(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of :func:`_filter` to a command, which gets their filter as ``which``."""
    options = inspect.signature(_filter, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters

    @wraps(command)
    def with_filter(**values: Any) -> None:
        chosen = _filter(**{name: values.pop(name) for name in options})
        command(which=chosen, **values)

    others = (own[name] for name in own if name != "which")
    show_parameters(with_filter, [*others, *options.values()])
    return with_filter


@app.command("list")
@_with_filter
def list_dead_letters(which: DeadFilter, limit: LimitOption = 50, json: JsonOption = False) -> None:
    """List dead letters with the reason, the oldest of each queue first."""
    inspector = open_inspector(which.queue)
    letters = list(inspector.dead_letters(which, limit=limit + 1))
    if which.queue is None:
        note_hidden_queues(inspector)
    if len(letters) > limit:
        letters.pop()
        say_error(f"more results: raise --limit above {limit}")
    if json:
        print_json([as_json(letter) for letter in letters])
        return
    now = get_broker().clock.time()
    columns = ["id", "actor", "died", "attempts", "why"]
    rows = [_row(letter, now) for letter in letters]
    print_table("Dead letters", columns, rows, empty="no dead letters")


def _row(letter: Entry, now: float) -> tuple[Any, ...]:
    return (
        shown_id(letter.id),
        letter.message.actor_name,
        None if letter.died is None else f"{age(now - letter.died)} ago",
        None if letter.failure is None else letter.failure.attempt,
        why(letter),
    )


@app.command("show")
def show_dead_letter(
    id: Annotated[str, id_argument("Job id or unique prefix.")], queue: QueueOption = None
) -> None:
    """Show a dead letter as JSON, with its payload, which may contain personal data."""
    inspector = open_inspector(queue)
    where, whole = _resolve(inspector, id, queue)
    found = inspector.dead_letter(where, whole)
    if found is None:
        raise NoSuchDeadLetter(f"the dead letter '{shown_id(id)}' was just removed")
    print_json(with_message(found))


def _add_command(name: str, done: str, help: str) -> None:
    """Add a command that changes dead letters."""

    @app.command(name, help=help)
    @_with_filter
    def change(
        which: DeadFilter,
        ids: Annotated[
            list[str] | None, id_argument("Job ids or unique prefixes.", metavar="ID...")
        ] = None,
        every: Annotated[
            bool, typer.Option("--all", help="All dead letters, of --queue if it is given.")
        ] = False,
        dry_run: DryRunOption = False,
        json: JsonOption = False,
    ) -> None:
        is_filter = replace(which, queue=None) != DeadFilter()
        # Deleting a queue's dead letters needs --all as well: it cannot be undone.
        is_filter |= name == "replay" and which.queue is not None and not ids
        if bool(ids) + (every or is_filter) != 1:
            other = "" if name == "replay" else " other than --queue"
            raise typer.BadParameter(f"expected ids of dead letters, or a filter{other}, or --all")
        inspector = open_inspector(which.queue)
        action = inspector.replay if name == "replay" else inspector.delete_dead
        # Resolve every id first: if one is wrong, nothing is changed.
        chosen: defaultdict[str, list[str]] = defaultdict(list)
        for queue, id in [_resolve(inspector, id, which.queue) for id in ids or ()]:
            chosen[queue].append(id)
        with counting(done) as progress:
            if ids:
                counts = (action(of, queue=queue, dry_run=dry_run) for queue, of in chosen.items())
                count = sum(counts)
            else:
                count = action(which, dry_run=dry_run, progress=progress)
        if which.queue is None and not ids:
            note_hidden_queues(inspector)
        if json:
            print_json({done: count, "dry_run": dry_run})
        else:
            say(f"would be {done}: {count}" if dry_run else f"{done}: {count}")


_add_command(
    "replay",
    "replayed",
    help="Put dead letters back on their queue with no attempts used, by id or by filter.",
)
_add_command("delete", "deleted", help="Delete dead letters permanently, by id or by filter.")


def _resolve(inspector: Inspector, id: str, queue: str | None) -> tuple[str, str]:
    """Return the queue and the whole id of the one dead letter whose id starts with ``id``."""
    found = only_match(id, "dead letter", inspector.dead_ids(id, queue, limit=CANDIDATES + 1))
    if found is None:
        if queue is None:
            note_hidden_queues(inspector)
        raise NoSuchDeadLetter(
            f"there is no dead letter '{shown_id(id)}'; formrelay dlq list shows them"
        )
    return found
