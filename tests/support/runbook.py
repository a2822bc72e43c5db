"""Runs the commands of a page for operators as an operator does, against a real broker."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.checkout import ROOT
from tests.support.command import Program, clean_environment, run, start_python
from tests.support.waiting import wait_until

#: Commands that run until they are stopped.
_LASTING = ("formrelay worker ", "formrelay dashboard ")


def sections(page: str) -> dict[str, list[str]]:
    """The command lines of a page in ``docs/``, with their comments, by heading.

    The heading of the commands above the first heading is "".
    """
    found: dict[str, list[str]] = {}
    for part in re.split(r"^## ", "\n" + (ROOT / "docs" / page).read_text(), flags=re.M):
        heading = part.partition("\n")[0] if found or not part.startswith("\n") else ""
        blocks = re.findall(r"```sh\n(.*?)```", part, re.S)
        found[heading] = [line for block in blocks for line in block.splitlines() if line]
    return {heading: lines for heading, lines in found.items() if lines}


@dataclass(slots=True)
class Operator:
    """Types commands in a folder.

    Attributes:
        broker: "Redis" or "RabbitMQ"; lines whose comment begins with the other are left out.
        env: formrelay's variables.
        words: what to type instead of a placeholder, by placeholder.
        typed: the commands so far.
    """

    broker: str
    folder: Path
    env: dict[str, str]
    words: dict[str, str] = field(default_factory=dict)
    typed: set[str] = field(default_factory=set)

    def json(self, command: str) -> Any:
        """Type a command of formrelay, with ``--json``; return what it prints."""
        arguments = [*shlex.split(command)[1:], "--json"]
        return json.loads(run(*arguments, cwd=self.folder, env=self.env).stdout)

    def __call__(self, command: str, *statuses: int) -> str:
        """Type a command; return what it prints, standard error included.

        Args:
            statuses: the exit statuses that are right, 0 if none is given.
        """
        program, *arguments = shlex.split(command)
        if program == "formrelay":
            done = run(*arguments, cwd=self.folder, env=self.env)
        else:
            done = subprocess.run(
                ["sh", "-c", command],
                cwd=self.folder,
                env=clean_environment(**self.env),
                capture_output=True,
                text=True,
                check=False,
            )
        printed = done.stdout + done.stderr
        assert done.returncode in (statuses or (0,)), f"{command}: {done.returncode}\n{printed}"
        assert "Traceback" not in printed
        return printed

    def start(self, command: str) -> Program:
        """Start a command that runs until it is stopped."""
        return start_python(
            *("-m", *shlex.split(command)),
            cwd=self.folder,
            env=clean_environment(**self.env),
            log=self.folder / "log",
            may_exec=True,
        )

    @contextmanager
    def typing(self, command: str) -> Iterator[Program]:
        """Start a command that runs until it is stopped; stop it afterwards."""
        program = self.start(command)
        try:
            yield program
        finally:
            program.terminate()
            status = program.wait(60)
            assert status in (0, -signal.SIGTERM), (self.folder / "log").read_text()

    def follow(
        self,
        lines: list[str],
        expected: Mapping[str, Any],
        until: Callable[[], Any] | None = None,
    ) -> None:
        """Type the commands of a section, in order; no command twice without an expectation.

        Args:
            expected: what a command prints, as a regular expression, by the beginning of its line;
                after the exit statuses if these are not 0: ``(1, "no workers")``.
            until: what a command that runs until it is stopped brings about; None: such commands
                are left out.
        """
        used = set()
        for line in lines:
            command, _, comment = (part.strip() for part in line.partition(" # "))
            if comment.startswith({"Redis": "RabbitMQ", "RabbitMQ": "Redis"}[self.broker]):
                continue
            for placeholder, word in self.words.items():
                command = re.sub(rf"(?<![\w-]){re.escape(placeholder)}(?![\w-])", word, command)
            if f"{command} ".startswith(_LASTING):
                if until is not None:
                    with self.typing(command):
                        wait_until(until, every=0.1)
                continue
            name = max((key for key in expected if line.startswith(key)), key=len, default=None)
            if name is None and command in self.typed:
                continue
            self.typed.add(command)
            found = expected[name] if name else ""
            used.add(name)
            *statuses, text = found if isinstance(found, tuple) else (0, found)
            printed = self(command, *statuses)
            assert re.search(text, printed), f"{command}\n{printed}"
        assert set(expected) <= used, f"no such command: {set(expected) - used}"
