"""``formrelay queues`` and ``formrelay workers``: queue counts and worker processes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from ...brokers import QueueCounts, get_broker
from ...core.errors import ConfigError
from ..boot import NOT_FINE
from ..health import queue_to_json, worker_to_json
from ..output import NOT_AVAILABLE, age, print_json, print_table, say, say_error
from .options import DryRunOption, JsonOption, note_hidden_queues, open_inspector

app = typer.Typer(
    help="Show message counts for each queue; pause, resume or purge a queue.",
    invoke_without_command=True,
)

QueueArgument = Annotated[str, typer.Argument(metavar="QUEUE", help="Name of the queue.")]
QueueOrAllArgument = Annotated[
    str | None, typer.Argument(metavar="QUEUE", help="Name of the queue. Default: all queues.")
]


@app.callback()
def queues(context: typer.Context, json: JsonOption = False) -> None:
    """Show message counts for each queue; pause, resume or purge a queue."""
    if context.invoked_subcommand is not None:
        return
    inspector = open_inspector()
    found = [inspector.counts(queue) for queue in inspector.queues()]
    note_hidden_queues(inspector)
    if json:
        print_json([queue_to_json(counts) for counts in found])
        return
    columns = ("queue", "waiting", "scheduled", "in_flight", "dead", "paused", "oldest")
    rows = [_row(counts) for counts in found]
    print_table("Queues", columns, rows, empty="no queue is declared")
    if any(NOT_AVAILABLE in row for row in rows):
        hint = ""
        if any(counts.in_flight is None for counts in found):
            hint = "; RABBITMQ_API_URL adds the number of messages in flight"
        say_error(f"{NOT_AVAILABLE}: not available on this broker{hint}")
    if scheduled := inspector.scheduled_in_all():
        say_error(f"note: scheduled messages of all queues together: {scheduled}")


def _row(counts: QueueCounts) -> tuple[Any, ...]:
    def cell(value: Any) -> Any:
        return NOT_AVAILABLE if value is None else value

    paused = None if counts.paused is None else ("paused" if counts.paused else "no")
    oldest = None if counts.oldest_age is None else age(counts.oldest_age.total_seconds())
    return (
        counts.queue,
        counts.waiting,
        cell(counts.scheduled),
        cell(counts.in_flight),
        counts.dead,
        cell(paused),
        cell(oldest) if counts.waiting else None,
    )


@app.command("pause")
def pause_queue(queue: QueueArgument) -> None:
    """Pause a queue: workers finish the jobs in flight and take no more."""
    open_inspector(queue).pause(queue)
    say(f"paused: {queue}")


@app.command("resume")
def resume_queue(queue: QueueArgument) -> None:
    """Resume a paused queue."""
    open_inspector(queue).resume(queue)
    say(f"resumed: {queue}")


@app.command("purge")
def purge_queue(queue: QueueArgument, dry_run: DryRunOption = False) -> None:
    """Delete the waiting messages of a queue. Dead letters are kept.

    On Redis, the scheduled messages too. On RabbitMQ they are kept, because all queues share the
    queues for delays.
    """
    inspector = open_inspector(queue)
    if inspector.counts(queue).scheduled is None:
        say_error("note: scheduled messages are kept: all queues of RabbitMQ share them")
    count = inspector.purge(queue, dry_run=dry_run)
    say(f"{'would be dropped' if dry_run else 'dropped'}: {count}")


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
    json: JsonOption = False,
) -> None:
    """Take over the messages of stock Dramatiq on RabbitMQ, and delete its queues.

    First stop every process that uses stock Dramatiq.
    Waiting, delayed and dead messages are moved.
    On Redis, workers take them over without this command.
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
    """List the worker processes. Exits with 1 if none is alive."""
    broker = get_broker()
    found = [worker_to_json(broker, worker) for worker in broker.inspector.workers()]
    if json:
        print_json(found)
    else:
        rows = [
            (
                worker["name"] or worker["id"],
                "yes" if worker["alive"] else "no",
                NOT_AVAILABLE if worker["silent_for_s"] is None else age(worker["silent_for_s"]),
                ", ".join(worker["queues"]) or None,
            )
            for worker in found
        ]
        print_table("Workers", ["worker", "alive", "silent", "queues"], rows, empty="no workers")
    if not any(worker["alive"] for worker in found):
        raise typer.Exit(NOT_FINE)
