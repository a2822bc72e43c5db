"""``formrelay webhooks``: the endpoints that fail or are disabled, what became of a webhook."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from ..actors.webhooks.registry import EndpointRecord, EndpointRegistry, MemoryRegistry
from ..actors.webhooks.resources import make_registry
from ..brokers import DeadFilter, NotAvailable, get_broker
from ..config import get_settings
from ..core.clock import SYSTEM_CLOCK, iso
from ..core.errors import ConfigError, FormrelayError, SinkError
from ..core.printable import shown_id
from .boot import declare_actors
from .output import JsonOption, age, print_json, print_table, read_id_argument, say

if TYPE_CHECKING:
    from ..actors.webhooks.delivery_log import Attempt

app = typer.Typer(help="Webhooks: endpoints, attempts, resend.", no_args_is_help=True)
endpoints_app = typer.Typer(
    help="The endpoints that fail or are disabled; enable, disable.", invoke_without_command=True
)
app.add_typer(endpoints_app, name="endpoints")

IdArgument = Annotated[
    str,
    typer.Argument(parser=read_id_argument, metavar="ID", help="As `endpoints` lists it."),
]
WebhookArgument = Annotated[
    str,
    typer.Argument(
        parser=read_id_argument, metavar="ID", help="The webhook-id, or the id of its message."
    ),
]
#: So many dead letters are looked through for an id that the publisher gave.
_MOST_LETTERS = 100_000


class NothingShared(FormrelayError):
    """Each worker process remembers endpoints for itself: set STATE_URL to a Redis."""


class NoSuchEndpoint(FormrelayError):
    """The endpoint is neither failing nor disabled."""


class NoSuchWebhook(FormrelayError):
    """There is no such webhook."""


@endpoints_app.callback()
def endpoints(context: typer.Context, json: JsonOption = False) -> None:
    """The endpoints that fail or are disabled, the disabled ones first."""
    if context.invoked_subcommand is not None:
        return
    found = sorted(_registry().all(), key=lambda one: (one.disabled_at is None, -one.failures))
    if json:
        print_json([_as_json(one) for one in found])
        return
    columns = ("endpoint", "host", "failures", "failing for", "last answer", "disabled")
    print_table("Endpoints", columns, [_row(one) for one in found], empty="no endpoint fails")


@endpoints_app.command()
def enable(id: IdArgument) -> None:
    """Deliver to an endpoint again; what died meanwhile is for `dlq replay`."""
    if not _registry().enable(id):
        raise NoSuchEndpoint(f"the endpoint '{shown_id(id)}' is neither failing nor disabled")
    say(f"enabled: {shown_id(id)}")


@endpoints_app.command()
def disable(id: IdArgument) -> None:
    """Deliver to an endpoint no more; what is sent to it goes to the dead letters."""
    is_new = _registry().disable(id, why="by an operator", now=SYSTEM_CLOCK.time())
    say(f"{'disabled' if is_new else 'disabled already'}: {shown_id(id)}")


@app.command()
def attempts(
    id: WebhookArgument,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    json: JsonOption = False,
) -> None:
    """Every attempt to deliver a webhook that ClickHouse knows of, the first one first."""
    declare_actors()
    from ..actors.webhooks.delivery_log import attempts_of

    found = attempts_of(id, limit=limit)
    if json:
        print_json([one.wire() for one in found])
    else:
        columns = ("at", "attempt", "outcome", "status", "took", "host", "error and answer")
        empty = f"no attempt to deliver {shown_id(id)} is recorded"
        print_table("Attempts", columns, [_attempt_row(one) for one in found], empty=empty)
    if not found:
        raise typer.Exit(1)


@app.command()
def resend(id: WebhookArgument, json: JsonOption = False) -> None:
    """Deliver a webhook again, under the same webhook-id: a dead one, one that waits for its
    next attempt, or a delivered one that is kept (WEBHOOK_KEEP_DELIVERED_DAYS)."""
    declare_actors()
    done = _resend(id)
    if json:
        print_json({"id": shown_id(id), "done": done})
    else:
        say(f"{done}: {shown_id(id)}")


def _resend(id: str) -> str:
    """Sends it again; what was done."""
    queue, inspector = get_settings().webhooks.queue, get_broker().inspector
    for message_id in _message_ids(id):
        if inspector.replay([message_id], queue=queue):
            return "replayed"
        with suppress(NotAvailable):
            if inspector.run_now(queue, message_id):
                return "tried now"
            if inspector.find(message_id, queue) is not None:
                return "on its way already"
    from ..actors import deliver_webhook

    registry = make_registry(get_broker().state)
    kept = registry.kept(id) or registry.kept(f"msg_{id}")
    if kept is None:
        raise NoSuchWebhook(
            f"there is no webhook '{shown_id(id)}' that is dead or waits, and no copy of a "
            "delivered one; WEBHOOK_KEEP_DELIVERED_DAYS says how long copies are kept"
        )
    job = orjson.loads(kept)  # a newer version may have kept more than these two
    payload = {"id": id if id.startswith("msg_") else f"msg_{id}", **job["payload"]}
    deliver_webhook.send(payload=payload, metadata=job.get("metadata"))
    return "sent again"


def _message_ids(id: str) -> Iterator[str]:
    """What the message of a webhook may be called on the broker."""
    from ..actors.webhooks.delivery_log import attempts_of

    yield id
    if id.startswith("msg_"):  # made of it
        yield id.removeprefix("msg_")
        return
    # An id of the publisher's own.
    queue = get_settings().webhooks.queue
    for letter in get_broker().inspector.dead_letters(DeadFilter(queue), limit=_MOST_LETTERS):
        payload = letter.message.kwargs.get("payload")
        if isinstance(payload, dict) and payload.get("id") == id:
            yield letter.id
    with suppress(ConfigError, SinkError):  # there is none, or it is away
        yield from dict.fromkeys(one.message_id for one in attempts_of(id, limit=100))


def _attempt_row(attempt: Attempt) -> tuple[Any, ...]:
    said = [attempt.message, attempt.response and f"({attempt.response[:80]})"]
    return (
        iso(attempt.at.timestamp()),
        attempt.attempt,
        attempt.outcome,
        attempt.status or None,
        f"{attempt.duration_ms:,.0f} ms",
        attempt.host,
        " ".join(filter(None, said)) or None,
    )


def _registry() -> EndpointRegistry:
    registry = make_registry(get_broker().state)
    if isinstance(registry, MemoryRegistry):
        raise NothingShared
    return registry


def _as_json(record: EndpointRecord) -> dict[str, Any]:
    stamps = ("failing_since", "last_at", "disabled_at")
    shown = {
        name: iso(value) if name in stamps and value is not None else value
        for name, value in record.to_json().items()
    }
    return shown | {"id": shown_id(record.id)}


def _row(record: EndpointRecord) -> tuple[Any, ...]:
    since, disabled = record.failing_since, record.disabled_at
    now = SYSTEM_CLOCK.time()
    return (
        shown_id(record.id),
        record.host or None,
        record.failures,
        None if since is None else age(now - since),
        record.last_status,
        None if disabled is None else f"{age(now - disabled)} ago: {record.why}",
    )
