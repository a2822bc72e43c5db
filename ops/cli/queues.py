"""``formrelay queues`` and ``formrelay workers``: queue counts and worker processes."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ...brokers import Inspector, QueueCounts, get_broker
from ...core.errors import BrokerError, ConfigError, describe
from ..audit import audited
from ..health.status_json import workers_to_json
from ..output import (
    NOT_AVAILABLE,
    age,
    can_redraw,
    print_json,
    print_table,
    redraw,
    say,
    say_error,
)
from ..worker.boot import NOT_FINE
from .candidates import queue_names
from .confirm import YesOption, confirm
from .options import DryRunOption, JsonOption, open_inspector
from .queue_table import shown_rate, shown_share, survey

app = typer.Typer(invoke_without_command=True)

#: Seconds between two drawings of ``--watch``.
_EVERY_SECONDS = 2.0
_EMPTY = "no queue is declared"

QueueArgument = Annotated[
    str,
    typer.Argument(metavar="QUEUE", help="Name of the queue.", autocompletion=queue_names),
]
QueueOrAllArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="QUEUE",
        help="Name of the queue. Default: all queues.",
        autocompletion=queue_names,
    ),
]


@app.callback()
def queues(
    context: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", help="Redraw the table every 2 s, until Ctrl-C.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show message counts for each queue; pause, resume or purge a queue.

    jobs/s and errors: attempts per second, and the share of failed attempts,
    in the last 5 minutes. state: `paused`; or `no worker` if messages wait
    and no live worker consumes the queue.

    Ctrl-C ends --watch with exit status 0.

    Example: formrelay queues --watch
    """
    if context.invoked_subcommand is not None:
        return
    if watch and json:
        raise typer.BadParameter("expected --watch or --json, got both")
    if watch and not can_redraw():
        raise typer.BadParameter("expected a terminal for --watch, got a file or a pipe")
    inspector = open_inspector()
    if watch:
        redraw(_title, lambda: _content(inspector), every=_EVERY_SECONDS)
        return
    found = survey(inspector)
    if json:
        print_json([line.to_json() for line in found.lines])
    else:
        print_table("Queues", found.columns, found.rows, empty=_EMPTY)
    for note in found.notes:
        say_error(note)


def _title() -> str:
    return f"Queues, {datetime.now(UTC):%H:%M:%S} UTC (every {_EVERY_SECONDS:.0f} s; Ctrl-C ends)"


def _content(inspector: Inspector) -> tuple[list[str], list[Any], str]:
    """Columns, rows and notes of the table that is redrawn."""
    try:
        found = survey(inspector)
    except BrokerError as error:  # an outage is what people watch for
        return [], [], f"{describe(error)}; trying again"
    return found.columns, found.rows, "\n".join([*([] if found.rows else [_EMPTY]), *found.notes])


@app.command("pause")
def pause_queue(queue: QueueArgument, json: JsonOption = False) -> None:
    """Pause a queue: workers finish the jobs in flight and take no more.

    Example: formrelay queues pause webhooks
    """
    inspector = open_inspector(queue)
    with audited("queues pause", queue):
        inspector.pause(queue)
    _tell("paused", queue, json)


@app.command("resume")
def resume_queue(queue: QueueArgument, json: JsonOption = False) -> None:
    """Resume a paused queue.

    Example: formrelay queues resume webhooks
    """
    inspector = open_inspector(queue)
    with audited("queues resume", queue):
        inspector.resume(queue)
    _tell("resumed", queue, json)


def _tell(done: str, queue: str, json: bool) -> None:
    if json:
        print_json({"queue": queue, "done": done})
    else:
        say(f"{done}: {queue}")


@app.command("purge")
def purge_queue(
    queue: QueueArgument,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Delete the waiting messages of a queue. Dead letters are kept.

    On Redis, scheduled messages are deleted too. On RabbitMQ they are kept,
    because all queues share the queues for delays. On a terminal, asks first.

    Example: formrelay queues purge webhooks --dry-run
    """
    inspector = open_inspector(queue)
    counts = inspector.counts(queue)
    if counts.scheduled is None:
        say_error("note: scheduled messages are kept: all queues of RabbitMQ share them")
    if dry_run:
        count = inspector.purge(queue, dry_run=True)
    else:
        if counts.waiting or counts.scheduled:
            confirm(_what_to_purge(counts), yes=yes)
        with audited("queues purge", queue) as entry:
            entry.count = count = inspector.purge(queue)
    if json:
        print_json({"dropped": count, "dry_run": dry_run})
    else:
        say(f"{'would be deleted' if dry_run else 'deleted'}: {count}")


def _what_to_purge(counts: QueueCounts) -> str:
    scheduled = f" and {counts.scheduled:,} scheduled" if counts.scheduled else ""
    noun = "message" if counts.waiting + (counts.scheduled or 0) == 1 else "messages"
    return f"Delete {counts.waiting:,} waiting{scheduled} {noun} of queue '{counts.queue}'"


@app.command()
def to_stock(
    queue: QueueOrAllArgument = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Convert the messages on Redis for stock Dramatiq. Refused while a worker runs.

    First stop every process that sends or runs jobs with formrelay.
    Frozen batches are split into messages, plain jobs become messages,
    and undecodable messages become dead letters.

    Example: formrelay queues to-stock webhooks --dry-run
    """
    from ...brokers.redis.broker import RedisBroker
    from ...brokers.redis.to_stock import Conversion, convert_queue, refuse_running_workers

    inspector, broker = open_inspector(queue), get_broker()
    if not isinstance(broker, RedisBroker):
        name = type(broker).__name__
        raise ConfigError(
            f"expected a broker on Redis, got {name}: stock Dramatiq cannot share its queues"
        )
    refuse_running_workers(broker)
    done = []
    for name in [queue] if queue else inspector.queues():
        if dry_run:
            counts = broker.counts(name)
            live = counts.waiting + (counts.in_flight or 0)
            found = Conversion(
                name, live, counts.scheduled or 0, counts.dead, paused=bool(counts.paused)
            )
        else:
            found = convert_queue(broker, name)
        done.append(asdict(found))
    if json:
        print_json({"dry_run": dry_run, "queues": done})
        return
    title = "To be converted for stock Dramatiq" if dry_run else "Converted for stock Dramatiq"
    columns = ["queue", "waiting", "scheduled", "dead", "split", "undecodable", "paused"]
    rows = [[*list(counts.values())[:-1], "yes" if counts["paused"] else "no"] for counts in done]
    print_table(title, columns, rows, empty="no queue is declared")
    if any(counts["dead"] for counts in done):
        say_error("note: stock Dramatiq deletes dead letters after 7 days")
    if any(counts["paused"] for counts in done):
        say_error("note: stock Dramatiq ignores that a queue is paused")


@app.command()
def from_stock(
    queue: QueueOrAllArgument = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Take over the messages of stock Dramatiq on RabbitMQ, and delete its queues.

    First stop every process that uses stock Dramatiq.
    Waiting, delayed and dead messages are moved. On a terminal, asks first.
    On Redis, workers take them over without this command.

    Example: formrelay queues from-stock mail --dry-run
    """
    from ...brokers.rabbitmq.broker import RabbitBroker
    from ...brokers.rabbitmq.from_stock import take_over_queue

    broker = get_broker()
    if not isinstance(broker, RabbitBroker):
        raise ConfigError(
            f"expected a broker on RabbitMQ, got {type(broker).__name__}: on Redis, workers take "
            "over the messages of stock Dramatiq when they start"
        )
    names = [queue] if queue else sorted(broker.queues)
    if not dry_run:
        confirm(f"Delete the queues of stock Dramatiq of {', '.join(names)}", yes=yes)
    taken = [take_over_queue(broker.client, name, dry_run=dry_run) for name in names]
    done = [asdict(found) for found in taken if found is not None]
    if json:
        print_json({"dry_run": dry_run, "queues": done})
        return
    title = "To be taken over from stock Dramatiq" if dry_run else "Taken over from stock Dramatiq"
    rows = [list(counts.values()) for counts in done]
    columns = ["queue", "waiting", "scheduled", "dead"]
    print_table(title, columns, rows, empty=f"no queue of stock Dramatiq for {', '.join(names)}")


def workers(json: JsonOption = False) -> None:
    """List the worker processes. Exits with 1 if none is alive.

    state: `ok`, `hangs`, `no_broker` (it cannot use the broker), `died`
    (without an orderly end), or `silent` (it does not report).
    jobs/s and errors: attempts per second, and the share of failed attempts,
    in the last minute. --json also has the sizes of the worker's queues.

    Example: formrelay workers --json
    """
    broker = get_broker()
    found = workers_to_json(broker)
    if problem := broker.inspector.degraded():
        say_error(f"note: {problem}")
    if broker.state is None:
        say_error("note: version, memory and running jobs need a shared store (STATE_URL)")
    if json:
        print_json(found)
    else:
        columns = ["worker", "state", "last seen", "version", "memory"]
        columns += ["jobs/s", "errors", "running", "queues"]
        print_table("Workers", columns, [_worker_row(each) for each in found], empty="no workers")
        for each in found:
            if each["why"]:
                say_error(f"{each['name'] or each['id']}: {each['state']}: {each['why']}")
    if not any(worker["alive"] for worker in found):
        raise typer.Exit(NOT_FINE)


def _worker_row(worker: dict[str, Any]) -> tuple[Any, ...]:
    silent, memory = worker["silent_for_s"], worker["memory_bytes"]
    return (
        worker["name"] or worker["id"],
        worker["state"],
        NOT_AVAILABLE if silent is None else age(silent),
        worker["version"],
        None if memory is None else f"{memory / 1_000_000:.0f} MB",
        None if worker["jobs_per_s"] is None else shown_rate(worker["jobs_per_s"]),
        shown_share(worker["error_rate"]),
        _running(worker),
        ", ".join(worker["queues"]) or None,
    )


def _running(worker: dict[str, Any]) -> str | None:
    """The number of running jobs, and the actor of the job that has run longest."""
    count, longest = worker["running_count"], (worker["running"] or [None])[0]
    if longest is None:
        return None if count is None else str(count)
    return f"{count}: {longest['actor']} for {age(longest['for_s'])}"
