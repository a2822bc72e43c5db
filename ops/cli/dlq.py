"""``formrelay dlq``: find, read, replay, delete, export and import dead letters."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from ...brokers import DeadFilter, Entry, Inspector, NotAvailable, get_broker
from ...brokers.inspection import Extent
from ...core.printable import shown_id
from ..audit import record
from ..dead_groups import LIMIT, DeadGroup, DeadGroups, group_dead_letters
from ..output import age, print_json, print_table, say_error
from .candidates import dead_letter_ids
from .dead_filter import (
    NoSuchDeadLetter,
    WholeQueueOption,
    all_letters,
    note_extent,
    resolve,
    with_filter,
)
from .dlq_changes import delete_dead_letters, replay_dead_letters
from .dlq_files import export_dead_letters, import_dead_letters
from .job_json import as_json, iso_or_none, why
from .job_report import show
from .options import (
    JsonOption,
    LimitOption,
    QueueOption,
    RevealOption,
    ShowJsonOption,
    id_argument,
    note_hidden_queues,
    open_inspector,
)

app = typer.Typer(
    help="List, group, show, replay, delete, export and import dead letters.", no_args_is_help=True
)


@app.command("list")
@with_filter
def list_dead_letters(
    which: DeadFilter,
    limit: LimitOption = 50,
    whole_queue: WholeQueueOption = False,
    json: JsonOption = False,
) -> None:
    """List dead letters with the reason, the oldest of each queue first.

    Example: formrelay dlq list --queue webhooks --since 2h
    """
    inspector, extent = open_inspector(which.queue), Extent(whole_queues=whole_queue)
    letters = list(inspector.dead_letters(which, limit=limit + 1, extent=extent))
    if which.queue is None:
        note_hidden_queues(inspector)
    if len(letters) > limit:
        letters.pop()
        say_error(f"more results: raise --limit above {limit}")
    else:
        note_extent(extent)
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
        _ago(letter.died, now),
        None if letter.failure is None else letter.failure.attempt,
        why(letter),
    )


def _ago(at: float | None, now: float) -> str | None:
    return None if at is None else f"{age(now - at)} ago"


@app.command("groups")
@with_filter
def list_groups(
    which: DeadFilter,
    look_at: Annotated[
        int, typer.Option(min=1, help="Maximum number of dead letters to look at.")
    ] = LIMIT,
    whole_queue: WholeQueueOption = False,
    json: JsonOption = False,
) -> None:
    """Group dead letters by error, the largest group first.

    Errors that differ only in numbers, ids, addresses or quoted texts are one
    group. Pass the id of a group to other commands with --group.

    Example: formrelay dlq groups --since 1d
    """
    inspector = open_inspector(which.queue)
    found = group_dead_letters(inspector, which, limit=look_at, whole_queues=whole_queue)
    if which.queue is None:
        note_hidden_queues(inspector)
    if json:
        print_json(_groups_as_json(found))
        return
    now = get_broker().clock.time()
    count = "count" if found.is_complete else "at least"
    columns = ["group", count, "last", "actors", "error"]
    rows = [
        (
            group.id,
            group.count,
            _ago(group.last, now),
            ", ".join(group.actors),
            _error_of(group),
        )
        for group in found.groups
    ]
    print_table("Dead letters by error", columns, rows, empty="no dead letters")
    _say_window(found)


def _error_of(group: DeadGroup) -> str:
    if not group.error or group.message == group.error:
        return group.message
    return f"{group.error.rpartition('.')[2]}: {group.message}"


def _say_window(found: DeadGroups) -> None:
    """Print which dead letters are in the groups."""
    first, last = iso_or_none(found.first), iso_or_none(found.last)
    window = "" if first is None else f", dead-lettered from {first} to {last}"
    more = "" if found.is_complete else "; there are more: raise --look-at, or use --whole-queue"
    say_error(f"looked at {found.looked_at:,}, found {found.count:,}{window}{more}")
    if found.ungrouped:
        say_error(f"note: {found.ungrouped:,} more are in groups that are not shown")


def _groups_as_json(found: DeadGroups) -> dict[str, Any]:
    groups = []
    for group in found.groups:
        queue, id = group.example
        shown = {"example": {"queue": queue, "id": shown_id(id)}}
        times = {name: iso_or_none(getattr(group, name)) for name in ("first", "last")}
        groups.append({**asdict(group), **times, **shown})
    return {
        "groups": groups,
        "looked_at": found.looked_at,
        "complete": found.is_complete,
        "count": found.count,
        "ungrouped": found.ungrouped,
        "first": iso_or_none(found.first),
        "last": iso_or_none(found.last),
    }


@app.command("show")
def show_dead_letter(
    id: Annotated[str, id_argument("Job id or unique prefix.", complete=dead_letter_ids)],
    queue: QueueOption = None,
    reveal: RevealOption = False,
    whole_queue: WholeQueueOption = False,
    json: ShowJsonOption = False,
) -> None:
    """Show a dead letter: error, attempts, payload. Its values are masked.

    --reveal shows the values, and is written to the audit log.

    Example: formrelay dlq show 39c2c01a --reveal
    """
    inspector = open_inspector(queue)
    where, whole = resolve(inspector, id, queue, whole_queues=whole_queue)
    found = _read(inspector, where, whole, whole_queue=whole_queue)
    if found is None:
        raise NoSuchDeadLetter(f"the dead letter '{shown_id(id)}' was just removed")
    if reveal:
        record("dlq show --reveal", shown_id(whole))
    show(found, as_json=json, reveal=reveal)


def _read(inspector: Inspector, queue: str, id: str, *, whole_queue: bool) -> Entry | None:
    try:
        return inspector.dead_letter(queue, id)
    except NotAvailable:
        if not whole_queue:
            raise
    found = [letter for letter in all_letters(inspector, queue) if letter.id == id]
    return next(iter(found), None)


app.command("replay")(replay_dead_letters)
app.command("delete")(delete_dead_letters)
app.command("export")(export_dead_letters)
app.command("import")(import_dead_letters)
