"""``formrelay queues`` and ``formrelay workers``: how much there is, and who does it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from ..brokers import Inspector, QueueCounts, RelayBroker, WorkerInfo, get_broker
from ..core.errors import ConfigError
from .boot import NOT_FINE, check_queues, declare_actors
from .output import DryRunOption, JsonOption, age, print_json, print_table, say, say_error

app = typer.Typer(
    help="How many messages wait, are scheduled, in flight and dead; pause, resume, purge.",
    invoke_without_command=True,
)

QueueArgument = Annotated[str, typer.Argument(metavar="QUEUE")]

#: In a cell, where a broker cannot tell.
_NOT_AVAILABLE = "n/a"


@app.callback()
def queues(context: typer.Context, json: JsonOption = False) -> None:
    """How many messages wait, are scheduled, in flight and dead."""
    if context.invoked_subcommand is not None:
        return
    declare_actors()
    broker = get_broker()
    counts = [broker.inspector.counts(queue) for queue in sorted(broker.queues)]
    if json:
        print_json([counts_as_json(one) for one in counts])
        return
    columns = ("queue", "waiting", "scheduled", "in_flight", "dead", "paused", "oldest")
    rows = [_row(one) for one in counts]
    print_table("Queues", columns, rows, empty="no queue is declared")
    if any(_NOT_AVAILABLE in row for row in rows):
        say_error(f"{_NOT_AVAILABLE}: not available on this broker")


def counts_as_json(counts: QueueCounts) -> dict[str, Any]:
    """A queue for programs; None is not available."""
    oldest = counts.oldest_age
    return {
        "queue": counts.queue,
        "waiting": counts.waiting,
        "scheduled": counts.scheduled,
        "in_flight": counts.in_flight,
        "dead": counts.dead,
        "paused": counts.paused,
        "oldest_age_s": None if oldest is None else oldest.total_seconds(),
    }


def _row(counts: QueueCounts) -> tuple[Any, ...]:
    def cell(value: Any) -> Any:
        return _NOT_AVAILABLE if value is None else value

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


@app.command()
def pause(queue: QueueArgument) -> None:
    """Let no worker take messages of a queue; what is begun is finished."""
    _inspector(queue).pause(queue)
    say(f"paused: {queue}")


@app.command()
def resume(queue: QueueArgument) -> None:
    """Let workers take messages of a queue again."""
    _inspector(queue).resume(queue)
    say(f"resumed: {queue}")


@app.command()
def purge(queue: QueueArgument, dry_run: DryRunOption = False) -> None:
    """Drop what waits and what is scheduled on a queue, for good; never the dead."""
    inspector = _inspector(queue)
    if inspector.counts(queue).scheduled is None:
        say_error("the scheduled ones: not available on this broker")
    count = inspector.purge(queue, dry_run=dry_run)
    say(f"{'would be dropped' if dry_run else 'dropped'}: {count}")


@app.command()
def to_stock(
    queue: Annotated[str | None, typer.Argument(metavar="QUEUE", help="Default: all.")] = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Give the messages on Redis back to stock Dramatiq; refused while a worker runs.

    Stop everything that sends or works with formrelay first. Frozen batches are taken apart,
    plain jobs become messages, and what cannot be decoded becomes a dead letter.
    """
    from ..brokers.redis.broker import RedisBroker
    from ..brokers.redis.to_stock import Conversion, convert_queue, refuse_running_workers

    declare_actors()
    check_queues([queue] if queue else None)
    broker = get_broker()
    if not isinstance(broker, RedisBroker):
        raise ConfigError("expected a broker on Redis, got RabbitMQ: its queues are not shared")
    refuse_running_workers(broker)
    done = []
    for name in [queue] if queue else sorted(broker.queues):
        if dry_run:
            there = broker.counts(name)
            live = there.waiting + (there.in_flight or 0)
            found = Conversion(
                name, live, there.scheduled or 0, there.dead, paused=bool(there.paused)
            )
        else:
            found = convert_queue(broker, name)
        done.append(asdict(found))
    if json:
        print_json({"dry_run": dry_run, "queues": done})
        return
    title = "To be given to stock Dramatiq" if dry_run else "Given to stock Dramatiq"
    columns = ["queue", "waiting", "scheduled", "dead", "split", "undecodable", "paused"]
    print_table(title, columns, [list(one.values()) for one in done], empty="no queue is declared")
    if any(one["dead"] for one in done):
        say_error("note: stock Dramatiq deletes dead letters after 7 days")
    if any(one["paused"] for one in done):
        say_error("note: stock Dramatiq does not know that a queue is paused")


def _inspector(queue: str) -> Inspector:
    declare_actors()
    check_queues([queue])
    return get_broker().inspector


def workers(json: JsonOption = False) -> None:
    """The worker processes; exit status 1 where none was heard of within HEARTBEAT_TIMEOUT."""
    broker = get_broker()
    found = [(one, *_pulse(broker, one)) for one in broker.inspector.workers()]
    if json:
        print_json([worker_as_json(broker, one) for one, _, _ in found])
    else:
        rows = [
            (
                one.name or one.id,
                "yes" if alive else "no",
                _NOT_AVAILABLE if silent is None else age(silent),
                ", ".join(one.queues) or None,
            )
            for one, alive, silent in found
        ]
        print_table("Workers", ["worker", "alive", "silent", "queues"], rows, empty="no workers")
    if not any(alive for _, alive, _ in found):
        raise typer.Exit(NOT_FINE)


def worker_as_json(broker: RelayBroker, worker: WorkerInfo) -> dict[str, Any]:
    """A worker process for programs; None is not available."""
    alive, silent = _pulse(broker, worker)
    return {
        "id": worker.id,
        "name": worker.name,
        "silent_for_s": None if silent is None else round(silent, 3),
        "alive": alive,
        "queues": worker.queues,
    }


def _pulse(broker: RelayBroker, worker: WorkerInfo) -> tuple[bool, float | None]:
    """Whether a worker is alive, and for how many seconds it has been silent."""
    if worker.last_heartbeat is None:  # the broker holds its connection
        return True, None
    silent = max(0.0, broker.clock.time() - worker.last_heartbeat)
    return silent <= broker.options.heartbeat_timeout.total_seconds(), silent
