"""The arguments of a message of an actor, ``payload`` and ``metadata``, as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dramatiq import Message

from ..brokers.envelope import decode_batch, is_frozen
from .model import JobModel


def wire(payload: Any) -> Any:
    """Convert a checked payload, or a list of payloads, to JSON."""
    if isinstance(payload, list):
        return [wire(item) for item in payload]
    assert isinstance(payload, JobModel)
    return payload.wire()


def idempotency_key(_payload: Any = None, metadata: Any = None, **_others: Any) -> str | None:
    """The key in the metadata; None without one, or if it is not text (the actor refuses that)."""
    if not isinstance(metadata, dict):
        return None
    key = metadata.get("idempotencyKey", metadata.get("idempotency_key"))
    return key if isinstance(key, str) else None


def weight(kwargs: Mapping[str, Any]) -> int:
    """How much a message counts towards the batch size."""
    payload = kwargs.get("payload")
    return len(payload) if isinstance(payload, list) else 1


def messages_in(message: Message[Any]) -> Iterator[Message[Any]]:
    """The messages of a batch that is stored as one message; otherwise the message itself."""
    if is_frozen(message):
        yield from (part.message for part in decode_batch(message, None).parts)
    else:
        yield message
