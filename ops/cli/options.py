"""Arguments and options that several subcommands share."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ...actors import declare_actors
from ...brokers import Inspector, get_broker
from ...core.clock import SYSTEM_CLOCK
from ...core.printable import read_id
from ..boot import check_queues

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be done, and change nothing.")
]
LimitOption = Annotated[int, typer.Option(min=1, help="Maximum number of results.")]
QueueOption = Annotated[
    str | None, typer.Option("--queue", "-q", help="Only this queue. Default: all queues.")
]

_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def _parse_id(text: str) -> str:
    """Parse an id argument, written as the tables print it."""
    id = read_id(text)
    try:
        id.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise typer.BadParameter(f"expected an id as the tables print it, got {text!r}") from None
    return id


def id_argument(help: str, metavar: str = "ID") -> Any:
    """Make an argument that takes an id as the tables print it."""
    return typer.Argument(parser=_parse_id, metavar=metavar, help=help)


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


def open_inspector(queue: str | None = None) -> Inspector:
    """Declare the actors and return the broker's inspector.

    Args:
        queue: a queue that must exist; None checks nothing.

    Raises:
        ConfigError: the queue does not exist.
    """
    declare_actors()
    check_queues([queue] if queue is not None else None)
    return get_broker().inspector
