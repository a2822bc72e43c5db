"""``formrelay webhooks``: delivery attempts, resending; ``endpoints`` has a file of its own."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ...actors import declare_actors
from ...brokers import Entry, NotAvailable, State, get_broker
from ...config import get_settings
from ...core.errors import ConfigError, SinkError
from ...core.failure import Reason
from ...core.printable import shown_id
from ..audit import record
from ..output import print_json, print_table, say, say_error
from ..resending import NoSuchWebhook, message_ids, resend_webhook
from ..worker.boot import NOT_FINE
from . import endpoints
from .options import CANDIDATES, JsonOption, LimitOption, id_argument, only_match

app = typer.Typer(
    help="Show endpoints and delivery attempts; resend webhooks.", no_args_is_help=True
)
app.add_typer(endpoints.app, name="endpoints")

WebhookArgument = Annotated[str, id_argument("Webhook id, or job id; or a unique prefix.")]


@app.command()
def attempts(id: WebhookArgument, limit: LimitOption = 100, json: JsonOption = False) -> None:
    """List the attempts to deliver a webhook, the oldest first.

    They are recorded in the delivery log, which needs ClickHouse.
    Without it, only the last failure of a webhook that is not done is shown.

    Example: formrelay webhooks attempts msg_0f8a5c21 --json
    """
    declare_actors()
    if get_settings().clickhouse.url is None:
        _show_last_failure(id, "CLICKHOUSE_URL is not set", json=json)
        return
    from ...actors.webhooks.delivery_log import attempts_of

    try:
        found = attempts_of(id, limit=limit)
        if not found and (whole := _whole_webhook_id(id)) is not None:
            found = attempts_of(whole, limit=limit)
    except SinkError as error:  # unavailable, or without tables
        _show_last_failure(id, str(error), json=json)
        return
    empty = f"no attempt to deliver {shown_id(id)} is recorded"
    _print_attempts([attempt.wire() for attempt in found], json=json, empty=empty)


def _show_last_failure(id: str, why: str, *, json: bool) -> None:
    """Show what the broker knows about the attempts of a webhook.

    Args:
        why: why there is no delivery log.
    """
    say_error(
        f"note: without the delivery log ({why}), only the last failure of a webhook that is not "
        "done is known"
    )
    entry = _find(id)
    if entry is None and (whole := _whole_id(id)) is not None:
        entry = _find(whole)
    found = [] if entry is None or entry.failure is None else [_failed_attempt(entry)]
    _print_attempts(found, json=json, empty=f"no failure of {shown_id(id)} is known")


def _failed_attempt(entry: Entry) -> dict[str, Any]:
    """Return the last failure of a webhook in the form of a recorded attempt."""
    failure = entry.failure
    assert failure is not None
    is_refused = entry.state is State.DEAD and failure.reason is not Reason.ATTEMPTS_EXHAUSTED
    return {
        "messageId": shown_id(entry.id),
        "attempt": failure.attempt,
        "outcome": "refused" if is_refused else "failed",
        "status": failure.code or 0,
        "error": failure.error,
        "message": failure.message,
        "at": failure.at,
    }


def _print_attempts(found: list[dict[str, Any]], *, json: bool, empty: str) -> None:
    if json:
        print_json(found)
    else:
        columns = ("at", "attempt", "outcome", "status", "took", "host, error and response")
        print_table("Attempts", columns, [_attempt_row(each) for each in found], empty=empty)
    if not found:
        raise typer.Exit(NOT_FINE)


@app.command()
def resend(id: WebhookArgument, json: JsonOption = False) -> None:
    """Deliver a webhook again with the same webhook-id.

    The webhook must be dead, wait for its next attempt, or have been
    delivered within WEBHOOK_KEEP_DELIVERED_DAYS.

    Example: formrelay webhooks resend msg_0f8a5c21
    """
    declare_actors()
    try:
        done = resend_webhook(id)
    except NoSuchWebhook:
        whole = _whole_id(id)
        if whole is None:
            raise
        id = whole
        done = resend_webhook(id)
    if done != "already queued":
        record("webhooks resend", shown_id(id), outcome=done)
    if json:
        print_json({"id": shown_id(id), "done": done})
    else:
        say(f"{done}: {shown_id(id)}")


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


def _find(id: str) -> Entry | None:
    """Find a webhook on the broker by its webhook-id or the id of its job."""
    queue, inspector = get_settings().webhooks.queue, get_broker().inspector
    for message_id in message_ids(id):
        with suppress(NotAvailable):
            if (found := inspector.find(message_id, queue)) is not None:
                return found
    return None


def _attempt_row(attempt: dict[str, Any]) -> tuple[Any, ...]:
    response, took = attempt.get("response"), attempt.get("durationMs")
    host, message = attempt.get("host"), attempt.get("message")
    texts = [host and f"{host}:" if message else host, message, response and f"({response[:80]})"]
    return (
        _time(attempt["at"]),
        attempt["attempt"],
        attempt["outcome"],
        attempt["status"] or None,
        None if took is None else f"{took:,.0f} ms",
        " ".join(filter(None, texts)) or None,
    )


def _time(at: str) -> str:
    """Return a time in ISO 8601 with seconds; another text as it is."""
    try:
        moment = datetime.fromisoformat(at).astimezone(UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        return at
