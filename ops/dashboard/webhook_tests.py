"""Makes test deliveries to webhook endpoints, with the URL and secret of a job or as entered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import orjson
from dramatiq import Message
from pydantic import ValidationError

from ...actors import deliver_webhook
from ...actors.model import invalid
from ...actors.payload_secrets import ENCRYPTED, readable_call
from ...actors.webhooks.actor import endpoint_of_url
from ...actors.webhooks.resources import make_registry
from ...brokers import Entry, NotAvailable, RelayBroker, State
from ...core.clock import iso
from ...core.errors import InvalidJob
from ...sinks.http import check_url
from ..endpoints import MAX_JOBS, endpoint_of_entry, jobs_of_queue
from .endpoint_list import Endpoint, webhook_queue

#: Fields of a webhook that belong to its endpoint.
_OF_ENDPOINT = ("url", "method", "headers", "secret", "secrets", "signatureStyle", "endpointId")


def make_test(broker: RelayBroker, id: str) -> Message[Any] | None:
    """Make a test delivery with the URL and secrets of a job of the endpoint.

    Returns:
        The message; None if no job of the endpoint is on the queue, dead-lettered or kept after
        its delivery.
    """
    for entry in chain(jobs_of_queue(broker.inspector, webhook_queue()), _in_flight(broker)):
        known = endpoint_of_entry(entry)
        call = readable_call(entry.message.actor_name, entry.message.kwargs)
        payload = call.get("payload")
        if ENCRYPTED in call:  # this process has no key: the secret has to be entered
            continue
        if known is not None and known[0] == id and isinstance(payload, dict):
            return _message(broker, payload, entry)
    kept = _kept(broker, id)
    return None if kept is None else _message(broker, kept)


def make_entered_test(
    broker: RelayBroker, endpoint: Endpoint, url: str, secret: str, style: str
) -> Message[Any]:
    """Make a test delivery with a URL and a secret that an operator has entered.

    Args:
        url: must belong to the endpoint, so that no test goes to another receiver.
        style: ``standard`` or ``stripe``.

    Raises:
        InvalidJob: an entry is invalid, or the URL belongs to another endpoint. The message
            contains no part of the URL or of the secret.
    """
    payload = {"url": url, "secret": secret, "signatureStyle": style}
    if not endpoint.id.startswith("url_"):
        payload["endpointId"] = endpoint.id
        if endpoint.host and check_url(url, allow_http=True).host != endpoint.host:
            raise InvalidJob(f"expected a URL of the host {endpoint.host}, got another host")
    elif endpoint_of_url(url) != endpoint.id:
        raise InvalidJob(f"expected the URL of {endpoint.id}, got the URL of another endpoint")
    try:
        deliver_webhook.schema.validate_python({**payload, "body": {}})
    except ValidationError as error:
        raise invalid(deliver_webhook.actor_name, "payload", error) from None
    return _message(broker, payload)


def _message(
    broker: RelayBroker, payload: Mapping[str, Any], entry: Entry | None = None
) -> Message[Any]:
    """Make the message of a test delivery.

    Args:
        payload: its fields that belong to the endpoint are copied.
        entry: a job of the endpoint, whose queue and actor are used; None for the defaults.
    """
    data = {"message": "A test of this endpoint, sent by an operator."}
    body = {"type": "webhook.test", "timestamp": iso(broker.clock.time()), "data": data}
    of_endpoint = {name: payload[name] for name in _OF_ENDPOINT if name in payload}
    call = {"payload": {**of_endpoint, "body": body}, "metadata": {}}
    queue = webhook_queue() if entry is None else entry.queue
    actor = deliver_webhook.actor_name if entry is None else entry.message.actor_name
    return Message(queue, actor, (), call, {})


def _in_flight(broker: RelayBroker) -> Iterable[Entry]:
    try:
        return broker.inspector.browse(webhook_queue(), State.IN_FLIGHT, limit=MAX_JOBS).entries
    except NotAvailable:
        return ()


def _kept(broker: RelayBroker, id: str) -> dict[str, Any] | None:
    """Return the payload of the newest delivered job of an endpoint; None if none is kept."""
    if broker.state is None:
        return None
    registry = make_registry(broker.state)
    kept = registry.newest_kept([id]).get(id)
    job = None if kept is None else registry.kept(kept)
    if job is None:
        return None
    call = readable_call(deliver_webhook.actor_name, orjson.loads(job))
    payload = call.get("payload")  # a newer version may store more fields
    return payload if isinstance(payload, dict) and ENCRYPTED not in call else None
