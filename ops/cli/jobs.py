"""``formrelay jobs``: list jobs, show a job, run it now, and cancel jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ...brokers import Entry, Inspector, NotAvailable, State, get_broker
from ...brokers.inspection import UnknownCursor
from ...core.errors import BrokerError, FormrelayError
from ...core.printable import shown_id
from ..audit import audited, id_words, record
from ..caused_jobs import find_caused
from ..output import (
    age,
    is_on_terminal,
    print_facts,
    print_json,
    print_table,
    say,
    say_error,
)
from ..progress import progress_by_id
from .cancel import cancel_jobs
from .job_json import as_json, caused_json, why
from .job_report import print_caused, show
from .job_search import Found, JobFilter, find_jobs
from .options import (
    CANDIDATES,
    ActorOption,
    JsonOption,
    QueueOption,
    RevealOption,
    ShowJsonOption,
    id_argument,
    id_option,
    note_hidden_queues,
    only_match,
    open_inspector,
)

#: Maximum seconds for which ``jobs show`` looks for the jobs that a job caused.
_SEARCH_SECONDS = 5.0

app = typer.Typer(
    help="List jobs in any state; show a job, run it now or cancel it.", no_args_is_help=True
)


class NoSuchJob(FormrelayError):
    """There is no such job."""


class NotScheduled(FormrelayError):
    """The job is not scheduled."""


def _state(text: str) -> State:
    try:
        return State(text.replace("-", "_"))
    except ValueError:
        names = ", ".join(state.replace("_", "-") for state in State)
        raise typer.BadParameter(f"expected one of {names}, got {text!r}") from None


StateOption = Annotated[
    State,
    typer.Option(
        "--state",
        "-s",
        parser=_state,
        metavar="STATE",
        help="waiting, scheduled, in-flight or dead.",
    ),
]


CausedByOption = Annotated[
    str | None, id_option("--caused-by", "Only jobs that the job with this id caused.")
]
PrefixOption = Annotated[
    str | None, id_option("--id-prefix", "Only jobs whose id begins with this text.")
]
CursorOption = Annotated[
    str | None, typer.Option(help="Cursor printed at the end of the previous page.")
]


@app.command("list")
def list_jobs(
    queue: QueueOption = None,
    state: StateOption = State.WAITING,
    actor: ActorOption = None,
    form: Annotated[str | None, typer.Option(help="Only jobs of the form with this id.")] = None,
    id_prefix: PrefixOption = None,
    caused_by: CausedByOption = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of results.")] = 50,
    look_at: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Maximum number of jobs to look at.")
    ] = 10_000,
    cursor: CursorOption = None,
    json: JsonOption = False,
) -> None:
    """List the jobs in one state, the next to run first. Changes nothing.

    Lists one queue after the other. RabbitMQ lists dead letters only.

    Example: formrelay jobs list --state scheduled --actor deliver_webhook
    """
    if cursor is not None and queue is None:
        raise typer.BadParameter("expected --queue with --cursor, which belongs to one queue")
    inspector = open_inspector(queue)
    queues = inspector.queues() if queue is None else [queue]
    which = JobFilter(actor, form, id_prefix, caused_by)
    try:
        found = find_jobs(
            inspector, queues, state, which, limit=limit, at_most=look_at, cursor=cursor
        )
    except UnknownCursor as error:
        raise typer.BadParameter(str(error)) from None
    except NotAvailable as error:
        if state is State.DEAD:
            raise
        raise BrokerError(f"{error}: --state dead") from None
    if queue is None:
        found.cursor = None  # of a queue that the next command would have to name
        note_hidden_queues(inspector)
    if json:
        entries = [as_json(entry) for entry in found.entries]
        more = {"looked_at": found.looked_at, "is_complete": found.is_complete}
        print_json({"entries": entries, "cursor": found.cursor, **more})
        return
    _print_jobs(found.entries, state, queue)
    if which == JobFilter():
        if not found.entries and (others := _in_other_states(inspector, queues, state)):
            say_error(f"note: in other states: {others} (--state)")
    else:
        say_error(f"looked at {found.looked_at:,}")
    if not found.is_complete:
        say_error(f"more results: {_how_to_go_on(found, queue, limit, look_at)}")


def _how_to_go_on(found: Found, queue: str | None, limit: int, look_at: int) -> str:
    if found.cursor is not None:
        return f"--cursor {found.cursor}"
    or_queue = "" if queue else ", or name a --queue"
    if len(found.entries) == limit:
        return f"raise --limit above {limit}{or_queue}"
    if found.looked_at >= look_at:
        return f"raise --look-at above {look_at}{or_queue}"
    return f"this broker gave only the oldest jobs{or_queue}"


def _print_jobs(entries: Sequence[Entry], state: State, queue: str | None) -> None:
    now = get_broker().clock.time()
    column = {State.SCHEDULED: "due", State.IN_FLIGHT: "worker", State.DEAD: "why"}
    columns = ["id", "actor", "sent", column.get(state, "last failure")]
    if state is State.SCHEDULED:
        columns.append("last failure")
    rows = [_row(entry, now) for entry in entries]
    if queue is None:
        columns.insert(1, "queue")
        rows = [(id, entry.queue, *rest) for entry, (id, *rest) in zip(entries, rows, strict=True)]
    where = "All queues" if queue is None else queue
    empty = {State.IN_FLIGHT: "no jobs in flight", State.DEAD: "no dead letters"}
    print_table(
        f"{where}: {state.replace('_', ' ')}",
        columns,
        rows,
        empty=empty.get(state, f"no {state} jobs"),
    )


def _in_other_states(inspector: Inspector, queues: Sequence[str], state: State) -> str:
    """Count the jobs of queues in the other states, like ``2 scheduled, 1 dead``."""
    counts = inspector.counts_of(queues)
    found = {
        State.WAITING: sum(each.waiting for each in counts),
        State.SCHEDULED: sum(each.scheduled or 0 for each in counts),
        State.IN_FLIGHT: sum(each.in_flight or 0 for each in counts),
        State.DEAD: sum(each.dead for each in counts),
    }
    shown = [
        f"{count:,} {each.replace('_', '-')}"
        for each, count in found.items()
        if count and each is not state
    ]
    return ", ".join(shown)


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


@app.command("show")
def show_job(
    id: Annotated[str, id_argument("Job id or unique prefix.")],
    queue: QueueOption = None,
    reveal: RevealOption = False,
    json: ShowJsonOption = False,
) -> None:
    """Show a job: state, attempts, last failure, next run, progress, jobs it caused.

    Of a job that is done, only the jobs that it caused. The values of its
    payload are masked; --reveal shows them, and is written to the audit log.

    Example: formrelay jobs show 39c2c01a --reveal
    """
    inspector = open_inspector(queue)
    match = only_match(id, "job", inspector.ids(id, queue, limit=CANDIDATES + 1))
    where, whole = match or (queue, id)
    error: FormrelayError = NoSuchJob(f"there is no job '{shown_id(id)}', or it is done")
    try:
        found = inspector.find(whole, where)
    except NotAvailable as missing:  # RabbitMQ shows dead letters alone
        found, error = None, missing
    if found is not None:
        if reveal:
            record("jobs show --reveal", shown_id(whole))
        sent_at = found.message.message_timestamp / 1000
        caused = find_caused(inspector, found.id, sent_at=sent_at, seconds=_SEARCH_SECONDS)
        show(found, as_json=json, reveal=reveal, caused=caused)
        return
    progress = progress_by_id(id) if isinstance(error, NotAvailable) else None
    caused = find_caused(inspector, id, seconds=_SEARCH_SECONDS)
    if progress is None and not caused.entries:
        raise error
    if json or not is_on_terminal():
        gone = {"id": shown_id(id), "state": None, "progress": progress}
        print_json({**gone, "caused": caused_json(caused)})
        return
    says = str(error) if progress is None else str(progress["text"])
    print_facts([("id", shown_id(id)), ("progress" if progress else "state", says)])
    print_caused(caused)


@app.command("run-now")
def run_now(
    ids: Annotated[list[str], id_argument("Job ids or unique prefixes.", metavar="ID...")],
    queue: QueueOption = None,
    json: JsonOption = False,
) -> None:
    """Run scheduled jobs at once, such as jobs that wait for a retry.

    Not on RabbitMQ.

    Example: formrelay jobs run-now 39c2c01a
    """
    inspector = open_inspector(queue)
    # Resolve every id first: if one is wrong, nothing is changed.
    try:
        found = [_resolve(inspector, id, queue) for id in ids]
    except NotAvailable:  # RabbitMQ finds dead letters alone
        raise NotAvailable("running a scheduled job at once") from None
    with audited("jobs run-now", id_words([id for _, id in found])) as entry:
        entry.count = 0
        for where, id in found:
            if not inspector.run_now(where, id):
                raise NotScheduled(_why_not_now(inspector.find(id, where), id))
            entry.count += 1
    if json:
        print_json({"due_now": len(found)})
    else:
        say(f"due now: {len(found)}")


def _resolve(inspector: Inspector, id: str, queue: str | None) -> tuple[str, str]:
    """Return the queue and the whole id of the one job whose id starts with ``id``."""
    match = only_match(id, "job", inspector.ids(id, queue, limit=CANDIDATES + 1))
    if match is None:
        inspector.find(id, queue)  # raises NotAvailable where jobs cannot be found
        raise NoSuchJob(f"there is no job '{shown_id(id)}', or it is done")
    return match


def _why_not_now(entry: Entry | None, id: str) -> str:
    states = {
        None: "it is done",
        State.WAITING: "it waits for a free worker already",
        State.IN_FLIGHT: "a worker runs it",
        State.DEAD: f"it is dead: formrelay dlq replay {shown_id(id)}",
        State.SCHEDULED: "its state has just changed; try again",
    }
    why_not = states[None if entry is None else entry.state]
    return f"expected a scheduled job, got '{shown_id(id)}': {why_not}"


app.command("cancel")(cancel_jobs)
