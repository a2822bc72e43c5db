"""``formrelay jobs``: list the jobs of a queue, show one job, and cancel jobs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ...brokers import Entry, NotAvailable, State, get_broker
from ...brokers.inspection import UnknownCursor
from ...core.clock import iso
from ...core.errors import FormrelayError
from ...core.failure import Reason
from ...core.printable import shown_id
from ..output import age, print_json, print_table, say_error
from ..progress import progress_by_id, progress_json
from .cancel import cancel_jobs
from .options import (
    CANDIDATES,
    AlwaysJsonOption,
    JsonOption,
    QueueOption,
    id_argument,
    only_match,
    open_inspector,
)

app = typer.Typer(help="List the jobs of a queue in any state; show one.", no_args_is_help=True)

#: Names of secrets in payloads, as OAuth has them.
_TOKENS = frozenset({"access_token", "refresh_token"})


class NoSuchJob(FormrelayError):
    """There is no such job."""


def _state(text: str) -> State:
    try:
        return State(text.replace("-", "_"))
    except ValueError:
        names = ", ".join(state.replace("_", "-") for state in State)
        raise typer.BadParameter(f"expected one of {names}, got {text!r}") from None


@app.command("list")
def list_jobs(
    queue: Annotated[str, typer.Option("--queue", "-q", help="Name of the queue.")],
    state: Annotated[
        State,
        typer.Option(
            "--state",
            "-s",
            parser=_state,
            metavar="STATE",
            help="waiting, scheduled, in-flight or dead.",
        ),
    ] = State.WAITING,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of results.")] = 50,
    cursor: Annotated[
        str | None, typer.Option(help="Cursor printed at the end of the previous page.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the jobs in one state, the next to run first. Changes nothing."""
    inspector = open_inspector(queue)
    try:
        page = inspector.browse(queue, state, limit=limit, cursor=cursor)
    except UnknownCursor as error:
        raise typer.BadParameter(str(error)) from None
    if json:
        entries = [as_json(entry) for entry in page.entries]
        print_json({"entries": entries, "cursor": page.cursor})
        return
    now = get_broker().clock.time()
    column = {State.SCHEDULED: "due", State.IN_FLIGHT: "worker", State.DEAD: "why"}
    columns = ["id", "actor", "sent", column.get(state, "last failure")]
    if state is State.SCHEDULED:
        columns.append("last failure")
    rows = [_row(entry, now) for entry in page.entries]
    print_table(f"{queue}: {state.replace('_', ' ')}", columns, rows, empty="none")
    if page.cursor is not None:
        say_error(f"more results: --cursor {page.cursor}")


def _row(entry: Entry, now: float) -> tuple[Any, ...]:
    id = shown_id(entry.id)
    sent = age(now - entry.message.message_timestamp / 1000)
    row = (id or None, entry.message.actor_name, sent, _detail(entry, now))
    return (*row, why(entry)) if entry.state is State.SCHEDULED else row


def _detail(entry: Entry, now: float) -> str | None:
    match entry.state:
        case State.SCHEDULED:
            return "now" if entry.due is None or entry.due <= now else f"in {age(entry.due - now)}"
        case State.IN_FLIGHT:
            return entry.worker
        case _:
            return why(entry)


def why(entry: Entry) -> str | None:
    """Return the reason and message of the last failure, in one line."""
    failure = entry.failure
    if failure is None:
        return "dead-lettered outside formrelay" if entry.state is State.DEAD else None
    if _is_retried(entry):
        return f"attempt {failure.attempt}: {failure.message}"
    return f"{failure.reason.value}: {failure.message}"


def _is_retried(entry: Entry) -> bool:
    """Whether a job waits for its next attempt.

    The reason in its record is then the one for which it would be dead-lettered after the last.
    """
    failure = entry.failure
    return (
        entry.state is not State.DEAD
        and failure is not None
        and failure.reason is Reason.ATTEMPTS_EXHAUSTED
    )


@app.command("show")
def show_job(
    id: Annotated[str, id_argument("Job id or unique prefix.")],
    queue: QueueOption = None,
    json: AlwaysJsonOption = False,
) -> None:
    """Show a job as JSON: its payload, which may contain personal data, and its progress."""
    del json
    inspector = open_inspector(queue)
    match = only_match(id, "job", inspector.ids(id, queue, limit=CANDIDATES + 1))
    where, whole = match or (queue, id)
    try:
        found = inspector.find(whole, where)
    except NotAvailable:  # RabbitMQ shows dead letters alone
        progress = progress_by_id(id)
        if progress is None:
            raise
        print_json({"id": shown_id(id), "state": None, "progress": progress})
        return
    if found is None:
        raise NoSuchJob(f"there is no job '{shown_id(id)}', or it is done")
    print_json(with_message(found))


def as_json(entry: Entry) -> dict[str, Any]:
    """Return an entry as JSON, without its payload.

    The reason of a failure is null while the job is retried.
    """
    failure = None if entry.failure is None else entry.failure.to_json()
    if failure is not None and _is_retried(entry):
        failure = {**failure, "reason": None}
    return {
        "queue": entry.queue,
        "id": shown_id(entry.id),
        "state": entry.state.value,
        "actor": entry.message.actor_name,
        "sent_at": iso_or_none(entry.message.message_timestamp / 1000),
        "due": iso_or_none(entry.due),
        "worker": entry.worker,
        "died_at": iso_or_none(entry.died),
        "failure": failure,
    }


def iso_or_none(seconds: float | None) -> str | None:
    """Return a time in ISO 8601; None where another program stored a number out of range."""
    try:
        return None if seconds is None else iso(seconds)
    except (ValueError, OverflowError, OSError):
        return None


def with_message(entry: Entry) -> dict[str, Any]:
    """Return an entry as JSON, with its payload and its progress."""
    return {
        **as_json(entry),
        "progress": progress_json(entry),
        "message": _without_tokens(entry.message.asdict()),
    }


def _without_tokens(value: Any) -> Any:
    """Copy JSON without OAuth tokens, which open all spreadsheets of their owner."""
    if isinstance(value, dict):
        return {
            name: "[…]" if name in _TOKENS and isinstance(each, str) else _without_tokens(each)
            for name, each in value.items()
        }
    return [*map(_without_tokens, value)] if isinstance(value, list | tuple) else value


app.command("cancel")(cancel_jobs)
