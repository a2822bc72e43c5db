"""``formrelay dlq``: find, read, replay and delete dead letters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from ..brokers import DeadLetter, RelayBroker, get_broker
from ..core.errors import FormrelayError
from .boot import check_queues, declare_actors
from .output import JsonOption, print_json, print_table

app = typer.Typer(help="Dead letters: list, show, replay, delete.", no_args_is_help=True)

QueueOption = Annotated[
    str | None, typer.Option("--queue", "-q", help="Only this queue; default: all.")
]
LimitOption = Annotated[int, typer.Option(min=1, help="At most so many a queue.")]
IdsArgument = Annotated[list[str] | None, typer.Argument(help="Ids of dead letters.")]
AllOption = Annotated[bool, typer.Option("--all", help="Every dead letter of the queue.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


class NoSuchDeadLetter(FormrelayError):
    """There is no such dead letter."""


@app.command("list")
def list_(queue: QueueOption = None, limit: LimitOption = 50, json: JsonOption = False) -> None:
    """What died, when and why."""
    letters = list(_letters(queue, limit))
    if json:
        print_json([_as_json(letter) for letter in letters])
        return
    rows = [_row(letter) for letter in letters]
    columns = ["id", "actor", "died at", "tries", "why"]
    print_table("Dead letters", columns, rows, empty="no dead letters")


def _row(letter: DeadLetter) -> tuple[Any, ...]:
    failure = letter.failure
    if failure is None:
        return letter.id, letter.message.actor_name, None, None, "not buried by formrelay"
    died_at = failure.at.replace("T", " ").partition(".")[0]
    why = f"{failure.reason.value}: {failure.message}"
    return letter.id, letter.message.actor_name, died_at, failure.attempt, why


@app.command()
def show(id: str, queue: QueueOption = None, limit: LimitOption = 10_000) -> None:
    """One dead letter whole, its payload included, as JSON."""
    for letter in _letters(queue, limit):
        if letter.id == id:
            print_json({**_as_json(letter), "message": letter.message.asdict()})
            return
    raise NoSuchDeadLetter(f"there is no dead letter {id!r}; formrelay dlq list shows them")


@app.command()
def replay(
    ids: IdsArgument = None,
    queue: QueueOption = None,
    every: AllOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Put dead letters back on their queue, attempts at zero."""
    _act(
        "replayed",
        lambda broker, *letter: broker.replay(*letter),
        ids,
        queue,
        every=every,
        dry_run=dry_run,
    )


@app.command()
def delete(
    ids: IdsArgument = None,
    queue: QueueOption = None,
    every: AllOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Delete dead letters for good."""
    _act(
        "deleted",
        lambda broker, *letter: broker.delete_dead(*letter),
        ids,
        queue,
        every=every,
        dry_run=dry_run,
    )


def _act(
    done: str,
    action: Callable[[RelayBroker, str, str], bool],
    ids: list[str] | None,
    queue: str | None,
    *,
    every: bool,
    dry_run: bool,
) -> None:
    if bool(ids) == every:
        raise typer.BadParameter("name the ids of dead letters, or --all")
    wanted = None if every else set(ids or ())
    # All are found first: what is replayed may die again while the list is still being read.
    found = [
        (letter.queue, letter.id)
        for letter in _letters(queue, limit=10_000_000)
        if wanted is None or letter.id in wanted
    ]
    missing = (wanted or set()) - {id for _, id in found}
    if missing:
        raise NoSuchDeadLetter(f"there is no dead letter {', '.join(sorted(missing))}")
    if dry_run:
        print(f"would be {done}: {len(found)}")
        return
    broker = get_broker()
    print(f"{done}: {sum(action(broker, where, id) for where, id in found)}")


def _letters(queue: str | None, limit: int) -> Iterator[DeadLetter]:
    declare_actors()
    broker = get_broker()
    check_queues([queue] if queue is not None else None)
    for name in [queue] if queue is not None else sorted(broker.queues):
        yield from broker.dead_letters(name, limit=limit)


def _as_json(letter: DeadLetter) -> dict[str, Any]:
    return {
        "queue": letter.queue,
        "id": letter.id,
        "actor": letter.message.actor_name,
        "failure": letter.failure.to_json() if letter.failure is not None else None,
    }
