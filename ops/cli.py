"""The ``formrelay`` command.

Exit status: 0 fine, 1 the thing asked about is not fine, 2 wrong use.
"""

from __future__ import annotations

import sys
import traceback
from dataclasses import asdict
from datetime import timedelta
from types import TracebackType
from typing import Annotated, Any

import orjson
import typer

from .. import __version__
from ..core.errors import ConfigError, InvalidJob, NotConfigured
from . import dlq, events, jobs, queues, webhooks
from .boot import NOT_FINE, declare_actors, one_line_errors
from .demo.command import demo
from .doctor import doctor
from .output import JsonOption, print_document, print_json, print_table, say, say_error
from .schema import schema

app = typer.Typer(
    help="The background work of a form platform: workers, queues, dead letters.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(queues.app, name="queues")
app.command()(queues.workers)
app.add_typer(jobs.app, name="jobs")
app.add_typer(dlq.app, name="dlq")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(events.app, name="events")
app.command()(demo)
app.command()(doctor)
app.command()(schema)


#: The base of what is raised for wrong use. Typer brings it along, or imports it from click.
_WrongUse: Any = typer.BadParameter.__mro__[2]


def main() -> None:
    """The entry point."""
    sys.excepthook = _print_traceback
    with one_line_errors():
        try:
            status = app(standalone_mode=False)
        except _WrongUse as error:
            _print_wrong_use(error)
            status = error.exit_code
        except typer.Abort:
            say_error("formrelay: aborted")
            status = NOT_FINE
    sys.exit(status or 0)


def _print_wrong_use(error: Any) -> None:
    """Print what is wrong with the arguments, of which the message may quote any."""
    context = getattr(error, "ctx", None)
    if context is not None:
        say_error(f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n")
    say_error(f"Error: {error.format_message()}")


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print a traceback; the text of an exception may be anybody's."""
    say_error("".join(traceback.format_exception(kind, error, trace)).rstrip())


def _version(wanted: bool) -> None:
    if wanted:
        say(f"formrelay {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def worker(
    queues: Annotated[
        list[str] | None, typer.Option("--queue", "-q", help="Only this queue; may be repeated.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Default: WORKER_PROCESSES.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: WORKER_CONCURRENCY.")] = None,
) -> None:
    """Start workers: the dramatiq command line with what the configuration says."""
    from .launch import become_workers

    become_workers("formrelay.worker", queues=queues, processes=processes, threads=threads)


@app.command()
def send(
    actor: Annotated[str, typer.Argument(help="record_events, save_submission, …")],
    payload: Annotated[str, typer.Argument(help="JSON, or '-' for standard input.")],
    metadata: Annotated[str, typer.Option(help="JSON.")] = "{}",
    delay: Annotated[float, typer.Option(min=0, help="Seconds.")] = 0,
) -> None:
    """Send one job; prints its id."""
    from ..actors.job import JobActor
    from ..brokers import get_broker

    declare_actors()
    broker = get_broker()
    if actor not in broker.actors:
        known = ", ".join(sorted(broker.actors))
        raise ConfigError(f"expected an actor ({known}), got {actor!r}")
    text = sys.stdin.read() if payload == "-" else payload
    found = broker.actors[actor]
    assert isinstance(found, JobActor)
    message = found.send_with_options(
        kwargs={"payload": _json("payload", text), "metadata": _json("metadata", metadata)},
        delay=int(timedelta(seconds=delay) / timedelta(milliseconds=1)) if delay else None,
    )
    say(message.message_id)


def _json(name: str, text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidJob(f"expected the {name} as JSON, got something else: {error.msg}") from None


@app.command()
def migrate(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    old_keys: Annotated[
        bool,
        typer.Option(
            "--old-keys",
            help="Instead, move the Redis keys of older versions (formrelay:…) under "
            "BROKER_NAMESPACE.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Create or upgrade the tables in ClickHouse, and how long they keep their rows."""
    if old_keys:
        _move_old_keys(dry_run, json)
        return
    from ..actors.resources import clickhouse, clickhouse_schema
    from ..sinks.clickhouse import migrate as migrations

    client, schema = clickhouse(), clickhouse_schema()
    if dry_run:
        names = [migration.name for migration in migrations.plan(client, schema)]
    else:
        names = migrations.apply(client, schema)
    notes = migrations.notes(client, schema)
    if json:
        print_json({"dry_run": dry_run, "migrations": names, "notes": notes})
    else:
        title = "To be applied" if dry_run else "Applied"
        print_table(title, ["migration"], [[name] for name in names], empty="up to date")
        for note in notes:
            say(f"note: {note}")


def _move_old_keys(dry_run: bool, json: bool) -> None:
    from .old_keys import bring_over, refuse_default_namespace

    refuse_default_namespace()
    declare_actors()
    counts = bring_over(dry_run=dry_run)
    if json:
        print_json({"dry_run": dry_run, "moved": counts})
    else:
        title = "To be moved" if dry_run else "Moved"
        print_table(title, ["what", "count"], list(counts.items()), empty="")


@app.command()
def config(
    example: Annotated[bool, typer.Option("--example", help="Print .env.example instead.")] = False,
    json: JsonOption = False,
) -> None:
    """Show every variable with its value and source; secrets are masked.

    Exit status 1 if the broker is missing, 2 if a variable is invalid.
    """
    from ..config.report import env_example, rows
    from ..config.settings import read_settings

    if example:
        print_document(env_example())
        return
    reading = read_settings()
    found = rows(reading)
    if json:
        print_json([asdict(row) for row in found])
    else:
        table = [(row.name, row.value, row.source) for row in found]
        print_table("Configuration", ["variable", "value", "from"], table, empty="")
    if isinstance(reading.error, NotConfigured):
        say_error(f"formrelay: {reading.error}")
        raise typer.Exit(NOT_FINE)
    if reading.error is not None:
        raise reading.error
