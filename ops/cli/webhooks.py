"""``formrelay webhooks``: failing and disabled endpoints, delivery attempts, resending."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from ...actors import declare_actors
from ...actors.webhooks.registry import EndpointRecord, EndpointRegistry
from ...actors.webhooks.resources import make_registry
from ...brokers import DeadFilter, NotAvailable, get_broker
from ...config import get_settings
from ...core.clock import SYSTEM_CLOCK, iso
from ...core.errors import ConfigError, FormrelayError, SinkError
from ...core.printable import shown_id
from ..boot import NOT_FINE
from ..output import age, print_json, print_table, say
from .options import CANDIDATES, JsonOption, LimitOption, id_argument, only_match
from .shared_state import shared_state

if TYPE_CHECKING:
    from ...actors.webhooks.delivery_log import DeliveryAttempt

app = typer.Typer(
    help="Show endpoints and delivery attempts; resend webhooks.", no_args_is_help=True
)
endpoints_app = typer.Typer(
    help="List failing and disabled endpoints; enable or disable one.", invoke_without_command=True
)
app.add_typer(endpoints_app, name="endpoints")

IdArgument = Annotated[
    str, id_argument("Endpoint id or unique prefix, as listed by `webhooks endpoints`.")
]
WebhookArgument = Annotated[str, id_argument("Webhook id, or job id; or a unique prefix.")]
#: Maximum number of dead letters searched for an id that the publisher chose.
_MAX_SEARCHED = 100_000


class NoSuchEndpoint(FormrelayError):
    """The endpoint is neither failing nor disabled."""


class NoSuchWebhook(FormrelayError):
    """There is no such webhook."""


@endpoints_app.callback()
def endpoints(context: typer.Context, json: JsonOption = False) -> None:
    """List failing and disabled endpoints; enable or disable one."""
    if context.invoked_subcommand is not None:
        return
    found = sorted(
        _registry().all(), key=lambda record: (record.disabled_at is None, -record.failures)
    )
    if json:
        print_json([_as_json(record) for record in found])
        return
    columns = ("endpoint", "host", "failures", "failing for", "last response", "disabled")
    print_table(
        "Endpoints", columns, [_row(record) for record in found], empty="no failing endpoints"
    )


@endpoints_app.command()
def enable(id: IdArgument) -> None:
    """Enable an endpoint again. Dead letters stay until you run `dlq replay`."""
    id = _whole_endpoint_id(id)
    if not _registry().enable(id):
        raise NoSuchEndpoint(f"the endpoint '{shown_id(id)}' is neither failing nor disabled")
    say(f"enabled: {shown_id(id)}")


@endpoints_app.command()
def disable(id: IdArgument) -> None:
    """Disable an endpoint: its webhooks are dead-lettered without an attempt."""
    id = _whole_endpoint_id(id)
    is_new = _registry().disable(id, why="by an operator", now=SYSTEM_CLOCK.time())
    say(f"{'disabled' if is_new else 'already disabled'}: {shown_id(id)}")


@app.command()
def attempts(id: WebhookArgument, limit: LimitOption = 100, json: JsonOption = False) -> None:
    """List the recorded attempts to deliver a webhook, the oldest first."""
    declare_actors()
    from ...actors.webhooks.delivery_log import attempts_of

    found = attempts_of(id, limit=limit)
    if not found and (whole := _whole_webhook_id(id)) is not None:
        found = attempts_of(whole, limit=limit)
    if json:
        print_json([attempt.wire() for attempt in found])
    else:
        columns = ("at", "attempt", "outcome", "status", "took", "host", "error and response")
        empty = f"no attempt to deliver {shown_id(id)} is recorded"
        print_table("Attempts", columns, [_attempt_row(attempt) for attempt in found], empty=empty)
    if not found:
        raise typer.Exit(NOT_FINE)


@app.command()
def resend(id: WebhookArgument, json: JsonOption = False) -> None:
    """Deliver a webhook again with the same webhook-id.

    The webhook must be dead, wait for its next attempt, or have been
    delivered within WEBHOOK_KEEP_DELIVERED_DAYS.
    """
    declare_actors()
    try:
        done = _resend(id)
    except NoSuchWebhook:
        whole = _whole_id(id)
        if whole is None:
            raise
        id = whole
        done = _resend(id)
    if json:
        print_json({"id": shown_id(id), "done": done})
    else:
        say(f"{done}: {shown_id(id)}")


def _whole_endpoint_id(prefix: str) -> str:
    """Return the id of the one endpoint that begins with a prefix; the prefix if there is none."""
    ids = [record.id for record in _registry().all()]
    found = [("", id) for id in ids if prefix and id.startswith(prefix)]
    if ("", prefix) in found:
        return prefix
    match = only_match(prefix, "endpoint", found)
    return match[1] if match else prefix


def _whole_id(prefix: str) -> str | None:
    """Return the id of the one webhook that begins with a prefix: of its message, or recorded."""
    name = prefix.removeprefix("msg_")
    if name:
        queue = get_settings().webhooks.queue
        found = get_broker().inspector.ids(name, queue, limit=CANDIDATES + 1)
        if match := only_match(prefix, "webhook", found):
            return match[1]
    with suppress(ConfigError, SinkError):  # ClickHouse is not configured, or unavailable
        return _whole_webhook_id(prefix)
    return None


def _whole_webhook_id(prefix: str) -> str | None:
    """Return the webhook-id of the one recorded webhook that begins with a prefix."""
    from ...actors.webhooks.delivery_log import webhooks_like

    if not prefix:
        return None
    found = [("", id) for id in webhooks_like(prefix, limit=CANDIDATES + 1)]
    match = only_match(prefix, "webhook", found)
    return match[1] if match else None


def _resend(id: str) -> str:
    """Send a webhook again, and return what was done."""
    queue, inspector = get_settings().webhooks.queue, get_broker().inspector
    for message_id in _message_ids(id):
        if inspector.replay([message_id], queue=queue):
            return "replayed"
        with suppress(NotAvailable):
            if inspector.run_now(queue, message_id):
                return "tried now"
            if inspector.find(message_id, queue) is not None:
                return "already queued"
    from ...actors import deliver_webhook

    registry = make_registry(get_broker().state)
    kept = registry.kept(id) or registry.kept(f"msg_{id}")
    if kept is None:
        raise NoSuchWebhook(
            f"there is no webhook '{shown_id(id)}' in the queue, in the dead letters or among the "
            "delivered webhooks, which are kept for WEBHOOK_KEEP_DELIVERED_DAYS"
        )
    job = orjson.loads(kept)  # a newer version may store more fields
    payload = {"id": id if id.startswith("msg_") else f"msg_{id}", **job["payload"]}
    deliver_webhook.send(payload=payload, metadata=job.get("metadata"))
    return "sent again"


def _message_ids(id: str) -> Iterator[str]:
    """Yield the ids that the message of a webhook may have on the broker."""
    from ...actors.webhooks.delivery_log import attempts_of

    yield id
    if id.startswith("msg_"):  # the message id with a prefix
        yield id.removeprefix("msg_")
        return
    # The publisher chose the id: search for it.
    queue = get_settings().webhooks.queue
    for letter in get_broker().inspector.dead_letters(DeadFilter(queue), limit=_MAX_SEARCHED):
        payload = letter.message.kwargs.get("payload")
        if isinstance(payload, dict) and payload.get("id") == id:
            yield letter.id
    with suppress(ConfigError, SinkError):  # ClickHouse is not configured, or unavailable
        yield from dict.fromkeys(attempt.message_id for attempt in attempts_of(id, limit=100))


def _attempt_row(attempt: DeliveryAttempt) -> tuple[Any, ...]:
    texts = [attempt.message, attempt.response and f"({attempt.response[:80]})"]
    return (
        iso(attempt.at.timestamp()),
        attempt.attempt,
        attempt.outcome,
        attempt.status or None,
        f"{attempt.duration_ms:,.0f} ms",
        attempt.host,
        " ".join(filter(None, texts)) or None,
    )


def _registry() -> EndpointRegistry:
    return make_registry(shared_state())


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
