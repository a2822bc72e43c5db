"""``formrelay jobs``: what stands on a queue, and one job by its id."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..brokers import Entry, State, get_broker
from ..brokers.inspection import UnknownCursor
from ..core.clock import iso
from ..core.errors import FormrelayError
from ..core.printable import shown_id
from .boot import check_queues, declare_actors
from .output import (
    JsonOption,
    age,
    print_json,
    print_table,
    read_id_argument,
    say_error,
    short,
)

app = typer.Typer(help="Jobs in any state: list, show.", no_args_is_help=True)


class NoSuchJob(FormrelayError):
    """There is no such job."""


def _state(text: str) -> State:
    try:
        return State(text.replace("-", "_"))
    except ValueError:
        names = ", ".join(state.replace("_", "-") for state in State)
        raise typer.BadParameter(f"expected one of {names}, got {text!r}") from None


QueueOption = Annotated[str, typer.Option("--queue", "-q")]
StateOption = Annotated[
    State,
    typer.Option("--state", "-s", parser=_state, metavar="waiting|scheduled|in-flight|dead"),
]
LimitOption = Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")]
CursorOption = Annotated[
    str | None, typer.Option(help="Go on where a page ended, which says its cursor.")
]


@app.command("list")
def list_(
    queue: QueueOption,
    state: StateOption = State.WAITING,
    limit: LimitOption = 50,
    cursor: CursorOption = None,
    json: JsonOption = False,
) -> None:
    """The jobs in one state, the next one to run first; none is moved."""
    declare_actors()
    check_queues([queue])
    broker = get_broker()
    try:
        page = broker.inspector.browse(queue, state, limit=limit, cursor=cursor)
    except UnknownCursor as error:
        raise typer.BadParameter(str(error)) from None
    if json:
        entries = [as_json(entry) for entry in page.entries]
        print_json({"entries": entries, "cursor": page.cursor})
        return
    now = broker.clock.time()
    column = {State.SCHEDULED: "due", State.IN_FLIGHT: "worker", State.DEAD: "why"}
    columns = ["id", "actor", "sent", column.get(state, "last failure")]
    rows = [_row(entry, now) for entry in page.entries]
    print_table(f"{queue}: {state.replace('_', ' ')}", columns, rows, empty="none")
    if page.cursor is not None:
        say_error(f"there are more: --cursor {page.cursor}")


def _row(entry: Entry, now: float) -> tuple[Any, ...]:
    # The beginning of an id is enough to find a dead one; of the others it takes all of it.
    id = short(entry.id) if entry.state is State.DEAD else shown_id(entry.id)
    sent = age(now - entry.message.message_timestamp / 1000)
    return id or None, entry.message.actor_name, sent, _detail(entry, now)


def _detail(entry: Entry, now: float) -> str | None:
    match entry.state:
        case State.SCHEDULED:
            return "now" if entry.due is None or entry.due <= now else f"in {age(entry.due - now)}"
        case State.IN_FLIGHT:
            return entry.worker
        case _:
            return why(entry)


def why(entry: Entry) -> str | None:
    """The last failure in a line."""
    failure = entry.failure
    if failure is None:
        return "not buried by formrelay" if entry.state is State.DEAD else None
    return f"{failure.reason.value}: {failure.message}"


@app.command()
def show(
    id: Annotated[
        str,
        typer.Argument(
            parser=read_id_argument,
            metavar="ID",
            help="Id as it is listed; of a dead job also a unique prefix.",
        ),
    ],
    queue: Annotated[
        str | None, typer.Option("--queue", "-q", help="Only this queue; default: all.")
    ] = None,
) -> None:
    """One job whole as JSON, in whatever state. Its payload is included: mind who looks."""
    declare_actors()
    check_queues([queue] if queue is not None else None)
    inspector = get_broker().inspector
    found = inspector.find(id, queue)
    if found is None:
        dead = inspector.dead_ids(id, queue)
        found = inspector.find(dead[0][1], dead[0][0]) if len(dead) == 1 else None
    if found is None:
        raise NoSuchJob(f"there is no job '{short(id)}', or it is done")
    print_json(with_message(found))


def as_json(entry: Entry) -> dict[str, Any]:
    """An entry without its payload."""
    return {
        "queue": entry.queue,
        "id": shown_id(entry.id),
        "state": entry.state.value,
        "actor": entry.message.actor_name,
        "sent_at": _moment(entry.message.message_timestamp / 1000),
        "due": _moment(entry.due),
        "worker": entry.worker,
        "died_at": _moment(entry.died),
        "failure": entry.failure.to_json() if entry.failure is not None else None,
    }


def _moment(seconds: float | None) -> str | None:
    """ISO 8601; None where there is none, or where another program wrote a number that is none."""
    try:
        return None if seconds is None else iso(seconds)
    except (ValueError, OverflowError, OSError):
        return None


def with_message(entry: Entry) -> dict[str, Any]:
    """An entry with its payload."""
    return {**as_json(entry), "message": entry.message.asdict()}
