"""Runs an example of examples/packages in a worker, as docs/packages.md says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dramatiq import Message

from formrelay.brokers.base import RelayBroker
from formrelay.brokers.inspection import Entry
from tests.support.checkout import ROOT
from tests.support.command import clean_environment, start_python
from tests.support.waiting import wait_until


@dataclass
class Place:
    """A broker for the examples of one file of tests, and a folder for their output.

    Attributes:
        redis: URL of a Redis, beside RabbitMQ too.
    """

    variables: dict[str, str]
    redis: str
    broker: RelayBroker
    folder: Path

    def send(
        self, queue: str, actor: str, *args: Any, delay: int | None = None, **options: Any
    ) -> str:
        """Send a message to an actor of an example; return its id."""
        self.broker.declare_queue(queue)
        message = Message(queue, actor, args, options.pop("kwargs", {}), options)
        return self.broker.enqueue(message, delay=delay).message_id

    def dead(self, queue: str) -> list[Entry]:
        return list(self.broker.dead_letters(queue))


def environment(place: Place, **variables: str) -> dict[str, str]:
    """The environment of a program on the place's broker."""
    path = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return clean_environment(**place.variables, **variables, **path)


class Program:
    """A program that runs until :meth:`stop`, and its output."""

    def __init__(self, place: Place, *arguments: str, **variables: str) -> None:
        self._file = place.folder / f"output-{len(list(place.folder.iterdir()))}"
        env = environment(place, **variables)
        self._process = start_python(
            *arguments, cwd=place.folder, env=env, log=self._file, may_exec=True
        )

    @property
    def output(self) -> str:
        return self._file.read_text()

    def wait_for(self, pattern: str, *, count: int = 1, timeout: float = 60) -> None:
        """Wait until a regular expression has ``count`` matches in the output."""

        def is_found() -> bool:
            return len(re.findall(pattern, self.output)) >= count

        wait_until(
            lambda: is_found() or self._process.poll() is not None, timeout=timeout, every=0.05
        )
        assert is_found(), self.output

    def wait_for_outcomes(self, **counts: int) -> None:
        """Wait for log lines of attempts, by outcome: ``done=5, dead=1``."""
        for outcome, count in counts.items():
            self.wait_for(f'"outcome": ?"{outcome}"', count=count)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        finally:
            self._process.kill()


@contextmanager
def worker(place: Place, module: str, queue: str, **variables: str) -> Iterator[Program]:
    """``formrelay worker --import`` until the end of the block.

    Args:
        module: name of an example, or of another module with dots.
    """
    name = module if "." in module else f"formrelay.examples.packages.{module}"
    command = ("-m", "formrelay", "worker", "--import", name, "--queue", queue, "--threads", "4")
    program = Program(place, *command, WORKER_PROCESSES="1", **variables)
    try:
        program.wait_for("Worker process is ready for action.")
        yield program
    finally:
        program.stop()
        assert "CRITICAL" not in program.output, program.output  # a hook that failed
