"""Arguments and options that several subcommands share."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import wraps
from itertools import islice
from typing import Annotated, Any, TypeVar

import typer

from ...brokers import Inspector, NotAvailable, get_broker
from ...config import get_settings
from ...core.clock import SYSTEM_CLOCK
from ...core.errors import ConfigError, NotConfigured
from ...core.printable import check_id, read_id, shown_id
from ..output import say_error
from ..own_actors import import_actors
from .candidates import actor_names, job_ids, queue_names

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ShowJsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print JSON on a terminal too; a pipe or file always gets it."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be done, and change nothing.")
]
LimitOption = Annotated[int, typer.Option(min=1, help="Maximum number of results.")]
QueueOption = Annotated[
    str | None,
    typer.Option(
        "--queue",
        "-q",
        help="Only this queue. Default: all queues.",
        autocompletion=queue_names,
    ),
]
ActorOption = Annotated[
    str | None, typer.Option(help="Only jobs of this actor.", autocompletion=actor_names)
]
RevealOption = Annotated[
    bool,
    typer.Option("--reveal", help="Show the payload's values, which may contain personal data."),
]
ImportOption = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        help="Module with actors of your own, like myapp.actors. Can be repeated.",
    ),
]

T = TypeVar("T")

_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
#: Number of ids that an error names if a prefix matches several.
CANDIDATES = 5
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_LONGEST = 36_500 * 86_400


def first_results(found: Iterable[T], limit: int, otherwise: str = "") -> list[T]:
    """Return the first results; say on stderr if there are more.

    Args:
        otherwise: what to do instead of raising ``--limit``, like ", or use `export`".
    """
    results = list(islice(found, limit + 1))
    if len(results) > limit:
        results.pop()
        say_error(f"more results: raise --limit above {limit}{otherwise}")
    return results


def _parse_id(text: str) -> str:
    """Parse an id argument, written as the tables print it."""
    try:
        return check_id(read_id(text))
    except ValueError:
        raise typer.BadParameter(f"expected an id as the tables print it, got {text!r}") from None


def id_argument(
    help: str, metavar: str = "ID", *, complete: Callable[[str], list[str]] = job_ids
) -> Any:
    """Make an argument that takes an id as the tables print it.

    Args:
        complete: returns the ids that begin with a text.
    """
    return typer.Argument(parser=_parse_id, metavar=metavar, help=help, autocompletion=complete)


def id_option(name: str, help: str) -> Any:
    """Make an option that takes an id, or a part of one, as the tables print it."""
    return typer.Option(name, parser=_parse_id, metavar="ID", help=help)


def only_match(prefix: str, what: str, found: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """Return the one match of a prefix: where, and the whole id; None without a match.

    Args:
        what: the kind of thing, for the error about several matches.
        found: up to ``CANDIDATES + 1`` matches.
    """
    if not prefix:  # an unset shell variable, which would match everything
        raise typer.BadParameter(f"expected the id of a {what}, got an empty text")
    if len(found) <= 1:
        return found[0] if found else None
    named = sorted(found[:CANDIDATES], key=lambda match: match[1])  # sets of Redis have no order
    names = [f"{shown_id(id)} ({where})" if where else shown_id(id) for where, id in named]
    names += ["and more"] if len(found) > CANDIDATES else []
    raise typer.BadParameter(
        f"expected the id of one {what}, '{shown_id(prefix)}' matches several: {', '.join(names)}"
    )


def time_option(help: str, **more: Any) -> Any:
    """Make an option that takes a time, and gives unix seconds."""
    return typer.Option(parser=_parse_time, metavar="TIME", help=help, **more)


def _parse_time(text: str) -> float:
    """Parse a time option.

    Args:
        text: ISO 8601 (UTC unless it names an offset), or an age such as ``2h``.

    Returns:
        Unix seconds.
    """
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return SYSTEM_CLOCK.time() - float(ago[1]) * _SECONDS[ago[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"expected a time like 2026-01-31T09:30, or an age like 2h or 3d, got {text!r}"
        ) from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def parse_duration(text: str) -> float:
    """Parse a duration such as ``90s`` or ``30d``, at most 100 years, to seconds."""
    found = _AGO.fullmatch(text)
    seconds = float(found[1]) * _SECONDS[found[2]] if found is not None else 0
    if not 0 < seconds <= _LONGEST:
        raise typer.BadParameter(f"expected a duration like 90s, 12h or 30d, got {text!r}")
    return seconds


def with_imports(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option ``--import`` to a command.

    Before the command runs, its modules and those of FORMRELAY_IMPORTS are imported.
    """
    own = inspect.signature(command, eval_str=True).parameters

    @wraps(command)
    def importing(*, imports: list[str] | None = None, **values: Any) -> Any:
        if imports:
            import_actors(imports)
        elif not _runs_subcommand(values):
            with suppress(NotConfigured):  # the command says so if it needs the broker
                import_actors()
        return command(**values)

    option = inspect.Parameter(
        "imports", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ImportOption
    )
    show_parameters(importing, [*own.values(), option])
    return importing


def _runs_subcommand(values: Mapping[str, Any]) -> bool:
    """Whether a group runs one of its commands, which may only print its help."""
    # Not isinstance(value, typer.Context): Typer may bring its own click.
    return any(getattr(value, "invoked_subcommand", None) is not None for value in values.values())


def show_parameters(wrapper: Callable[..., Any], parameters: Iterable[inspect.Parameter]) -> None:
    """Let Typer read these parameters, all keyword-only, from the wrapper of a command."""
    shown = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    wrapper.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {each.name: each.annotation for each in shown}


def add_import_option(group: typer.Typer) -> typer.Typer:
    """Add the option ``--import`` to every command of a group and its groups; return the group."""
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            add_import_option(inner.typer_instance)
    found = [*group.registered_commands, group.registered_callback]
    for info in found:
        if info is not None and info.callback is not None:
            info.callback = with_imports(info.callback)
    return group


def open_inspector(queue: str | None = None) -> Inspector:
    """Declare the actors, those of FORMRELAY_IMPORTS too, and return the broker's inspector.

    Args:
        queue: a queue that must exist; None checks nothing.

    Raises:
        ConfigError: the queue does not exist.
    """
    import_actors()
    inspector = get_broker().inspector
    if queue is not None and not inspector.has_queue(queue):
        known = ", ".join(inspector.queues())
        raise ConfigError(
            f"expected a queue ({known}), got {queue!r}: for a queue without messages and workers, "
            "name the module of its actors with --import or FORMRELAY_IMPORTS"
        )
    return inspector


def hidden_queues(inspector: Inspector) -> Iterator[str]:
    """Yield a note if the broker may have queues that this command cannot list."""
    try:
        inspector.check_listing()
    except NotAvailable as error:
        section = get_settings().broker
        todo, why = "name their module with --import", f" ({error})"
        if section.kind == "rabbitmq" and section.rabbitmq_api_url is None:
            todo, why = f"{todo}, or set RABBITMQ_API_URL", ""
        yield f"note: queues of actors that are not imported are not shown; {todo}{why}"


def note_hidden_queues(inspector: Inspector) -> None:
    """Print a note if the broker may have queues that this command cannot list."""
    for note in hidden_queues(inspector):
        say_error(note)
