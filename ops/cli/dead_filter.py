"""Options that select dead letters, for every command of ``formrelay dlq``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Annotated, Any

import typer

from ...brokers import DeadFilter, Entry, Inspector, NotAvailable
from ...brokers.inspection import Extent
from ...core.error_groups import GROUP_ID_LENGTH
from ...core.errors import FormrelayError
from ...core.failure import Reason
from ...core.printable import shown_id
from ..output import say_error
from .options import (
    CANDIDATES,
    ActorOption,
    QueueOption,
    note_hidden_queues,
    only_match,
    show_parameters,
    time_option,
)


class NoSuchDeadLetter(FormrelayError):
    """There is no such dead letter."""


def _reason(text: str) -> Reason:
    try:
        return Reason(text.replace("-", "_"))
    except ValueError:
        names = ", ".join(Reason)
        raise typer.BadParameter(f"expected one of {names}, got {text!r}") from None


def _group(text: str) -> str:
    if not re.fullmatch(rf"[0-9a-f]{{{GROUP_ID_LENGTH}}}", text):
        raise typer.BadParameter(
            f"expected the id of a group, as formrelay dlq groups prints it, got {text!r}"
        )
    return text


def _filter(
    queue: QueueOption = None,
    actor: ActorOption = None,
    error: Annotated[
        str | None,
        typer.Option(help="Only errors of this type, or with this text in their message."),
    ] = None,
    reason: Annotated[
        Reason | None,
        typer.Option(parser=_reason, metavar="REASON", help="Only this reason, like crash_loop."),
    ] = None,
    since: Annotated[
        float | None,
        time_option("Only since this time: ISO 8601 (UTC), or an age like 2h or 3d."),
    ] = None,
    until: Annotated[float | None, time_option("Only before this time.")] = None,
    form: Annotated[str | None, typer.Option(help="Only jobs of the form with this id.")] = None,
    group: Annotated[
        str | None,
        typer.Option(
            parser=_group, metavar="GROUP", help="Only the group with this id, from `dlq groups`."
        ),
    ] = None,
) -> DeadFilter:
    return DeadFilter(queue, actor, error, reason, since, until, form, group)


def with_filter(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a filter to a command, which gets the filter as ``which``."""
    options = inspect.signature(_filter, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters

    @wraps(command)
    def with_filter(**values: Any) -> None:
        chosen = _filter(**{name: values.pop(name) for name in options})
        command(which=chosen, **values)

    others = (own[name] for name in own if name != "which")
    show_parameters(with_filter, [*others, *options.values()])
    return with_filter


def note_extent(extent: Extent) -> None:
    """Print a note if not all dead letters were looked at."""
    if not extent.is_complete:
        say_error(
            f"note: looked at {extent.looked_at:,} dead letters, the oldest of each queue; there "
            "are more: --whole-queue looks at all"
        )


WholeQueueOption = Annotated[
    bool,
    typer.Option(
        "--whole-queue",
        help="Look at all dead letters of a long queue of RabbitMQ: each is published again at "
        "the end of its queue.",
    ),
]


def resolve(
    inspector: Inspector, id: str, queue: str | None, *, whole_queues: bool = False
) -> tuple[str, str]:
    """Return the queue and the whole id of the one dead letter whose id starts with ``id``.

    Args:
        whole_queues: whether to move letters to find it (see :class:`..brokers.filters.Extent`).
    """
    try:
        ids = inspector.dead_ids(id, queue, limit=CANDIDATES + 1)
    except NotAvailable:
        if not whole_queues:
            raise
        letters = all_letters(inspector, queue)
        ids = [(letter.queue, letter.id) for letter in letters if letter.id.startswith(id)]
    found = only_match(id, "dead letter", ids[: CANDIDATES + 1])
    if found is None:
        if queue is None:
            note_hidden_queues(inspector)
        raise NoSuchDeadLetter(
            f"there is no dead letter '{shown_id(id)}'; formrelay dlq list shows them"
        )
    return found


def all_letters(inspector: Inspector, queue: str | None) -> Iterator[Entry]:
    """Yield all dead letters; RabbitMQ moves the dead letters of a long queue."""
    extent = Extent(whole_queues=True)
    return inspector.dead_letters(DeadFilter(queue), limit=None, extent=extent)
