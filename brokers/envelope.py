"""decode and encode: Dramatiq's message format, and the plain jobs of other publishers.

On the wire a message is Dramatiq's own JSON, so that stock producers and tools
read it. Three more forms are recognised:

- a job of a publisher in another language, ``{"type", "payload", "metadata"}``;
- a frozen batch: a message whose ``batch`` lists its parts' messages (see
  :func:`encode_batch`);
- anything else, which :func:`quarantine` wraps so that its bytes are kept.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from dramatiq import Message

from ..core.errors import BrokerError, InvalidJob
from ..core.failure import Failure
from ..middleware.delivery import BATCH, FAILURE, Batch, Delivery

#: The actor name of quarantined bytes; no actor can have it, so that nothing runs them.
QUARANTINE = "formrelay:quarantine"
_RAW = "raw"


class Undecodable(BrokerError):
    """The bytes are neither a message nor a job."""


def encode(message: Message[Any]) -> bytes:
    """A message as JSON.

    Raises:
        InvalidJob: an argument is not JSON (a set, NaN's container, a lone surrogate).
    """
    try:
        return orjson.dumps(message.asdict())
    except TypeError as error:  # orjson.JSONEncodeError is one; its text names types, not values
        raise InvalidJob(f"expected arguments that JSON can hold: {error}") from None


def decode(data: bytes, *, queue_name: str, job_types: Mapping[str, str]) -> Message[Any]:
    """The message in ``data``, as it came off ``queue_name``.

    Args:
        job_types: actor name by job type, for the plain jobs of other publishers.

    Raises:
        Undecodable: what was expected and what came, without quoting the data.
    """
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Undecodable(f"expected JSON, got {len(data)} bytes that are not") from None
    if not isinstance(fields, dict):
        raise Undecodable(f"expected a JSON object, got {_kind(fields)}")
    if "actor_name" not in fields and "type" in fields:
        return _from_plain_job(fields, queue_name, job_types)
    try:
        args, kwargs, options = fields["args"], fields["kwargs"], fields["options"]
        actor_name, message_id = fields["actor_name"], fields["message_id"]
        timestamp = fields["message_timestamp"]
    except KeyError as missing:
        raise Undecodable(f"expected a message with {missing}, got one without") from None
    # Dramatiq's worker dies of some of these; so each is looked at here.
    for name, value, kind in (
        ("args", args, list),
        ("kwargs", kwargs, dict),
        ("options", options, dict),
        ("actor_name", actor_name, str),
        ("message_id", message_id, str),
        ("message_timestamp", timestamp, int),
    ):
        if not isinstance(value, kind):
            raise Undecodable(
                f"expected {name} of a message to be {kind.__name__}, got {_kind(value)}"
            )
    # The name of the queue it came off, whatever it says: the worker settles by it.
    return Message(queue_name, actor_name, tuple(args), kwargs, options, message_id, timestamp)


def _from_plain_job(
    fields: dict[str, Any], queue_name: str, job_types: Mapping[str, str]
) -> Message[Any]:
    kind = fields["type"]
    actor_name = job_types.get(kind) if isinstance(kind, str) else None
    if actor_name is None:
        known = ", ".join(sorted(job_types)) or "none"
        raise Undecodable(f"expected a known job type ({known}), got another one")
    metadata = fields.get("metadata")
    kwargs = {"payload": fields.get("payload"), "metadata": metadata if metadata else {}}
    return Message(queue_name, actor_name, (), kwargs, {})


def encode_batch(batch: Batch, options: dict[str, Any]) -> Message[Any]:
    """A batch as one message that keeps its parts, their order and their options."""
    parts = [
        {
            "message_id": part.message_id,
            "message_timestamp": part.message_timestamp,
            "kwargs": part.kwargs,
            "options": part.options,
        }
        for part in batch.parts
    ]
    return batch.message.copy(kwargs={BATCH: parts}, options={**options, "frozen": True})


def thaw(message: Message[Any], tag: Any) -> Batch:
    """The inverse of :func:`encode_batch`.

    Raises:
        Undecodable: the message says that it is a frozen batch, and is not.
    """
    try:
        parts = [
            Delivery(
                Message(
                    message.queue_name,
                    message.actor_name,
                    (),
                    part["kwargs"],
                    part["options"],
                    part["message_id"],
                    part["message_timestamp"],
                ),
                None,
            )
            for part in message.kwargs[BATCH]
        ]
    except (KeyError, TypeError):
        raise Undecodable("expected a frozen batch with its parts, got something else") from None
    whole = message.copy(kwargs={BATCH: [part.message.kwargs for part in parts]})
    return Batch(whole, tag, parts)


def is_frozen(message: Message[Any]) -> bool:
    """Whether the message is a batch stored by :func:`encode_batch`."""
    return message.options.get("frozen") is True


def quarantine(data: bytes, *, queue_name: str, message_id: str, failure: Failure) -> Message[Any]:
    """Bytes that could not be decoded, as a dead letter that keeps them."""
    return Message(
        queue_name=queue_name,
        actor_name=QUARANTINE,
        args=(),
        kwargs={},
        options={_RAW: base64.b64encode(data).decode(), FAILURE: failure.to_json()},
        message_id=message_id,
    )


def revive(message: Message[Any]) -> bytes:
    """What to put back on the queue when a dead letter is replayed.

    Quarantined bytes go back exactly as they came; anything else starts again
    with its attempts at zero.
    """
    if message.actor_name == QUARANTINE:
        return base64.b64decode(message.options[_RAW])
    options = {
        name: value
        for name, value in message.options.items()
        if name not in (FAILURE, "retries", "eta")
    }
    # Message.copy only adds options; the fields are given anew to take some away.
    return encode(Message(**{**message.asdict(), "options": options}))


def _kind(value: object) -> str:
    names: Sequence[tuple[type, str]] = (
        (dict, "an object"),
        (list, "a list"),
        (str, "a string"),
        (bool, "a boolean"),
    )
    for kind, name in names:
        if isinstance(value, kind):
            return name
    return "null" if value is None else "a number"
