"""Delivers webhooks again: dead-lettered, scheduled and delivered webhooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import orjson

from ..actors.payload_secrets import ENCRYPTED
from ..actors.webhooks.resources import make_registry
from ..brokers import DeadFilter, NotAvailable, RelayBroker, get_broker
from ..config import get_settings
from ..core.errors import ConfigError, FormrelayError, SinkError
from ..core.printable import shown_id

#: Maximum number of dead letters searched for an id that the publisher chose.
_MAX_SEARCHED = 100_000


class NoSuchWebhook(FormrelayError):
    """There is no such webhook."""


def resend_webhook(id: str, broker: RelayBroker | None = None) -> str:
    """Deliver a webhook again with the same webhook-id.

    Args:
        id: webhook-id, or id of its job.
        broker: None for the broker of this process.

    Returns:
        What was done: ``replayed``, ``tried now``, ``already queued`` or ``sent again``.

    Raises:
        NoSuchWebhook: it is neither on the broker nor kept.
    """
    broker = broker or get_broker()
    queue, inspector = get_settings().webhooks.queue, broker.inspector
    for message_id in message_ids(id, broker):
        if inspector.replay([message_id], queue=queue):
            return "replayed"
        with suppress(NotAvailable):
            if inspector.run_now(queue, message_id):
                return "tried now"
            if inspector.find(message_id, queue) is not None:
                return "already queued"
    from ..actors import deliver_webhook

    registry = make_registry(broker.state)
    kept = registry.kept(id) or registry.kept(f"msg_{id}")
    if kept is None:
        raise NoSuchWebhook(
            f"there is no webhook '{shown_id(id)}' in the queue, in the dead letters or among the "
            "delivered webhooks, which are kept for WEBHOOK_KEEP_DELIVERED_DAYS"
        )
    job = orjson.loads(kept)  # a newer version may store more fields
    if (encrypted := job.get(ENCRYPTED)) is not None:  # with its id
        broker.enqueue(
            deliver_webhook.message_of(job["payload"], job.get("metadata"), encrypted=encrypted)
        )
        return "sent again"
    payload = {"id": id if id.startswith("msg_") else f"msg_{id}", **job["payload"]}
    deliver_webhook.send(payload=payload, metadata=job.get("metadata"))
    return "sent again"


def message_ids(id: str, broker: RelayBroker | None = None) -> Iterator[str]:
    """Yield the ids that the message of a webhook may have on the broker."""
    from ..actors.webhooks.delivery_log import attempts_of

    yield id
    if id.startswith("msg_"):  # the message id with a prefix
        yield id.removeprefix("msg_")
        return
    # The publisher chose the id: search for it.
    queue, inspector = get_settings().webhooks.queue, (broker or get_broker()).inspector
    for letter in inspector.dead_letters(DeadFilter(queue), limit=_MAX_SEARCHED):
        payload = letter.message.kwargs.get("payload")
        if isinstance(payload, dict) and payload.get("id") == id:
            yield letter.id
    with suppress(ConfigError, SinkError):  # ClickHouse is not configured, or unavailable
        yield from dict.fromkeys(attempt.message_id for attempt in attempts_of(id, limit=100))
