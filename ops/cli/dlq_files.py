"""``formrelay dlq export`` and ``formrelay dlq import``: dead letters as lines of JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from ...brokers import DeadFilter, Inspector
from ...brokers.inspection import Extent
from ...brokers.saved_letters import BadLetter, SavedLetter
from ...core.errors import ConfigError
from ..audit import audited
from ..output import json_line, print_json, print_json_line, progress_bar, say, say_error
from ..worker.boot import NOT_FINE
from .dead_filter import note_extent, with_filter
from .options import DryRunOption, JsonOption, note_hidden_queues, open_inspector

#: Maximum bytes of a line: RabbitMQ takes messages of up to 128 MiB.
_MAX_LINE = 256 * 1024 * 1024


@with_filter
def export_dead_letters(
    which: DeadFilter,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="New file. Default: standard output."),
    ] = None,
) -> None:
    """Write dead letters as lines of JSON. They stay dead letters.

    The lines contain the whole messages, with personal data and tokens.
    `dlq import` reads them, also on another broker. RabbitMQ moves
    each letter of a long queue to the end of its queue.

    Example: formrelay dlq export --queue webhooks --output dead.ndjson
    """
    # A part of the dead letters would be no copy of them.
    inspector, extent = open_inspector(which.queue), Extent(whole_queues=True)
    if which.queue is None:
        note_hidden_queues(inspector)
    with ExitStack() as stack:
        file = None if output is None else stack.enter_context(_new_file(output))
        show = stack.enter_context(progress_bar("exported", None))
        count = 0
        for letter in inspector.dead_letters(which, limit=None, extent=extent):
            line = SavedLetter.of(letter).to_json()
            if file is None:
                print_json_line(line)
            else:
                file.write(json_line(line).encode())
            count += 1
            show(count)
    say_error(f"exported: {count}")
    note_extent(extent)
    if not extent.is_complete:
        raise typer.Exit(NOT_FINE)


def _new_file(path: Path) -> BinaryIO:
    """Create a file that only its owner may read."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except OSError as error:
        raise ConfigError(
            f"expected to create the file {str(path)!r}, got: {error.strerror}"
        ) from None


def import_dead_letters(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Lines of an export; '-' reads standard input.")
    ],
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Add the dead letters of an export; skip dead letters that exist already.

    Invalid lines are named on standard error and skipped; the exit status is
    then 1.

    Example: formrelay dlq import dead.ndjson
    """
    inspector = open_inspector()
    with ExitStack() as stack:
        lines = sys.stdin.buffer if file == "-" else stack.enter_context(_opened(file))
        reading = _Reading(inspector, lines)
        added = 0
        if dry_run:
            for _ in reading.letters():
                pass
        else:
            entry = stack.enter_context(audited("dlq import"))
            show = stack.enter_context(progress_bar("imported", None))

            def progress(_count: int) -> None:
                entry.progress(reading.good)
                show(reading.good)

            for queue, letters in groupby(reading.letters(), key=attrgetter("queue")):
                added += inspector.add_dead(queue, letters, progress=progress)
                entry.count = added
    counts = {"imported": added, "already_there": reading.good - added, "wrong": reading.wrong}
    if dry_run:
        counts = {"would_be_imported": reading.good, "wrong": reading.wrong}
    if json:
        print_json({**counts, "dry_run": dry_run})
    else:
        say(", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in counts.items()))
    if reading.wrong:
        raise typer.Exit(NOT_FINE)


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise ConfigError(f"expected a readable file {path!r}, got: {error.strerror}") from None


class _Reading:
    """Reads the lines of an export.

    Attributes:
        good, wrong: number of lines so far.
    """

    def __init__(self, inspector: Inspector, lines: BinaryIO) -> None:
        self._inspector = inspector
        self._lines = lines
        self._queues: dict[str, bool] = {}
        self.good = self.wrong = 0

    def letters(self) -> Iterator[SavedLetter]:
        """Yield the dead letters; name the wrong lines."""
        number = 0
        while line := self._lines.readline(_MAX_LINE):
            number += 1
            if not line.strip():
                continue
            try:
                letter = SavedLetter.from_line(line)
                self._check_queue(letter.queue)
            except BadLetter as error:
                self.wrong += 1
                say_error(f"line {number}: {error}")
                continue
            self.good += 1
            yield letter

    def _check_queue(self, queue: str) -> None:
        if queue not in self._queues:
            self._queues[queue] = self._inspector.has_queue(queue)
        if not self._queues[queue]:
            raise BadLetter(
                f"expected a queue that exists, got {queue!r}: name the module of its actors with "
                "--import"
            )
