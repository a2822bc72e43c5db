"""The command line as a whole: its subcommands, and how errors end it.

Exit status: 0 fine, 1 the thing asked about is not fine, 2 wrong use.
"""

from __future__ import annotations

import sys
from functools import cache
from types import TracebackType
from typing import Annotated, Any

import typer
from typer.main import get_command

from ... import __version__
from ...core.tracebacks import traceback_text
from ..output import say, say_error
from ..worker.boot import NOT_FINE, one_line_errors
from . import dlq, email, events, jobs, queues, sheets, suppressions, webhooks
from .audit import audit
from .bounces import bounces
from .completion import completion
from .config import config
from .dashboard import dashboard
from .demo import demo
from .doctor import doctor
from .encrypt import encrypt
from .erase import erase
from .health import health
from .metrics import metrics
from .migrate import migrate
from .monitor import monitor
from .options import add_import_option, with_imports
from .schema import schema
from .send import send
from .version import version
from .worker import worker

app = typer.Typer(
    help="Run the background jobs of a form platform: workers, queues, dead letters.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
# The commands that know actors take --import; the worker handles it itself.
for _command in (
    worker,
    with_imports(queues.workers),
    with_imports(migrate),
    *(config, schema, demo, audit),
    with_imports(dashboard),
    with_imports(send),
    with_imports(doctor),
    with_imports(health),
    with_imports(monitor),
    with_imports(metrics),
    *(version, completion),
    with_imports(bounces),
    with_imports(erase),
    with_imports(encrypt),
):
    app.command()(_command)
for _name, _group in (
    ("queues", add_import_option(queues.app)),
    ("jobs", add_import_option(jobs.app)),
    ("dlq", add_import_option(dlq.app)),
    ("webhooks", add_import_option(webhooks.app)),
    ("events", events.app),
    ("email", email.app),
    ("suppressions", suppressions.app),
    ("sheets", sheets.app),
):
    app.add_typer(_group, name=_name)


#: click's base class of usage errors. Typer may bring its own click, so it is taken from Typer.
_UsageError: Any = typer.BadParameter.__mro__[2]


@cache
def command() -> Any:
    """The command with its subcommands, which Typer makes in 0.06 s of CPU."""
    return get_command(app)


def run() -> None:
    """Run the command line and exit the process."""
    sys.excepthook = _print_traceback
    with one_line_errors():
        try:
            status = command()(prog_name=_name_of_completion(), standalone_mode=False)
        except _UsageError as error:
            _print_usage_error(error)
            status = error.exit_code
        except typer.Abort:
            say_error("formrelay: aborted")
            status = NOT_FINE
    sys.exit(status or 0)


def _name_of_completion() -> str | None:
    """The name of the command whose completion is asked for; None otherwise.

    A shell completes the command ``formrelay``, not ``python -m formrelay`` or ``manage.py``.
    """
    asked = {"--show-completion", "--install-completion"}
    return "formrelay" if asked.intersection(sys.argv[1:2]) else None


def _print_usage_error(error: Any) -> None:
    """Print a usage error escaped: its message may quote any argument."""
    context = getattr(error, "ctx", None)
    if context is not None:
        say_error(f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n")
    say_error(f"Error: {error.format_message()}")


def _print_traceback(
    _kind: type[BaseException], error: BaseException, _places: TracebackType | None
) -> None:
    """Print a traceback escaped: the text of an exception may come from outside."""
    say_error(traceback_text(error).rstrip())


def _version(wanted: bool) -> None:
    if wanted:
        say(f"formrelay {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass
