"""``formrelay send``: send one job, or the jobs of a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from ...actors import declare_actors
from ...brokers import get_broker
from ...core.errors import BrokerError, ConfigError, InvalidJob
from ..output import counting, print_json, say, say_error
from ..sending import Line, Sender, find_target, make_message, parse, split
from ..worker.boot import NOT_FINE
from .candidates import targets
from .options import DryRunOption, JsonOption

#: Maximum number of invalid lines that --json names; standard error names all.
_MAX_NAMED = 1_000
#: Bytes of spaces and line breaks that a job in a file may have beside its message.
_SPACE = 100_000
#: Seconds; more than any broker accepts, and few enough for a timedelta.
_LONGEST_DELAY = 1e9


TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="QUEUE_OR_TYPE",
        help="Queue, job type or actor: webhooks, webhook.send, …",
        autocompletion=targets,
    ),
]
PayloadArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="PAYLOAD|@FILE|-",
        help="Payload as JSON, or a file. Default: standard input, also as '-'.",
    ),
]


def send(
    target: TargetArgument,
    payload: PayloadArgument = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="File with one job, or a job on each line.")
    ] = None,
    metadata: Annotated[str, typer.Option(help="Metadata as JSON, for all jobs.")] = "{}",
    delay: Annotated[float, typer.Option(min=0, help="Seconds before the jobs may run.")] = 0,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Send one job and print its id, or send each line of a file.

    A job is its payload, or {"type": …, "payload": …, "metadata": …}.
    Invalid lines are named on standard error, the other lines are sent, and
    the exit status is 1.

    An actor of your own gets the payload as its argument, and the metadata,
    if any, as the keyword metadata.

    Example: formrelay send webhooks @jobs.ndjson --dry-run
    """
    declare_actors()
    broker = get_broker()
    found = find_target(broker, target)
    about = parse(metadata, "metadata")
    if not isinstance(about, dict):
        raise InvalidJob(f"{target}: expected the metadata to be an object, got something else")
    later = timedelta(seconds=min(delay, _LONGEST_DELAY)) if delay else None
    longest = broker.options.max_message_bytes + _SPACE
    with _opened(payload, file) as given:
        job = given if isinstance(given, bytes) else split(given, longest)
        if isinstance(job, bytes):
            message = make_message(found, parse(job), about, later, broker.clock.time())
            if dry_run:
                broker.check(message)
            else:
                broker.enqueue(message)
            _print_one(message.message_id, dry_run=dry_run, json=json)
            return
        sender = Sender(broker, found, about, later, dry_run=dry_run)
        _send_lines(sender, job, dry_run=dry_run, json=json)


def _print_one(id: str, *, dry_run: bool, json: bool) -> None:
    if json:
        print_json({"id": None if dry_run else id, "sent": 1, "invalid": 0, "dry_run": dry_run})
    else:
        say("would be sent: 1" if dry_run else id)


def _send_lines(sender: Sender, lines: Iterator[Line], *, dry_run: bool, json: bool) -> None:
    named: list[dict[str, object]] = []
    what = "would be sent" if dry_run else "sent"
    try:
        with counting(what) as show:
            for bad in sender.send(lines):
                if bad is None:
                    show(sender.sent)
                    continue
                number, error = bad
                say_error(f"line {number}: {error}")
                if len(named) < _MAX_NAMED:
                    named.append({"line": number, "error": error})
    except (BrokerError, KeyboardInterrupt):
        say_error(
            f"{what}: {sender.sent}, invalid: {sender.invalid}; line {sender.next_line} is the "
            "first whose job may not have been sent"
        )
        raise
    if json:
        counts = {"sent": sender.sent, "invalid": sender.invalid, "dry_run": dry_run}
        print_json({"id": None, **counts, "errors": named})
    else:
        say(f"{what}: {sender.sent}" + (f", invalid: {sender.invalid}" if sender.invalid else ""))
    if sender.invalid:
        raise typer.Exit(NOT_FINE)


@contextmanager
def _opened(payload: str | None, file: Path | None) -> Iterator[bytes | BinaryIO]:
    """The payload of the command line, or an open file."""
    if file is not None and payload is not None:
        raise typer.BadParameter("expected either a payload or --file, got both")
    if file is None and payload is not None and payload != "-":
        file = _as_file(payload)
        if file is None:
            yield payload.encode(errors="surrogateescape")
            return
    if file is not None and str(file) != "-":
        try:
            opened = file.open("rb")
        except OSError as error:
            raise ConfigError(
                f"expected a file that can be read, got '{file}': {error.strerror}"
            ) from None
        with opened:
            yield opened
        return
    if payload is None and file is None and sys.stdin.isatty():
        raise typer.BadParameter("expected a payload, @FILE, or jobs on standard input, got none")
    yield sys.stdin.buffer


def _as_file(payload: str) -> Path | None:
    """Return the file that the argument names; None if it is JSON."""
    if payload.startswith("@"):
        return Path(payload[1:])
    is_path = payload.lstrip()[:1] not in tuple('{["') and len(payload) < 4096
    try:
        return Path(payload) if is_path and Path(payload).is_file() else None
    except (OSError, ValueError):
        return None
