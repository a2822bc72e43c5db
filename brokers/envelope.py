"""Encodes and decodes messages.

A message is encoded as Dramatiq's own JSON, so that stock producers and tools read it. There are
three other forms:

- plain jobs, ``{"type", "payload", "metadata"}``, from publishers in other languages;
- frozen batches: one message that contains the messages of a batch (:func:`encode_batch`);
- bytes that cannot be decoded, kept in a dead letter (:func:`wrap_undecodable`).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson
from dramatiq import Message

from ..core.errors import BrokerError, InvalidJob
from ..core.failure import Failure, Reason
from ..middleware.delivery import ARGS, BATCH, FAILURE, REDELIVERED, Batch, Delivery
from .json_limits import has_long_integer, is_deeper, is_finite

#: The actor name of undecodable bytes; no actor can have this name, so that they are never run.
UNDECODABLE = "formrelay:quarantine"
_RAW, _RAW_TEXT = "raw", "raw_text"
#: Undecodable bytes above this size are kept as text if that is shorter than base64.
_LARGE = 64 * 1024
#: Maximum nesting of a message. orjson reads 1,024 levels and writes 254, and a message that is
#: read must be writable again; a frozen batch adds a few levels.
MAX_LEVELS = 200
_FROZEN_LEVELS = 10
# Times and dataclasses are refused, since decode() would return another type.
_STRICT = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message to enqueue.

    Attributes:
        body: the message, as :func:`encode` returns it.
        due: unix milliseconds; None: now.
        priority: 0 to 9, the highest first; None: 0.
    """

    message: Message[Any]
    body: bytes
    due: int | None
    priority: int | None


class Undecodable(BrokerError):
    """The bytes are neither a message nor a plain job."""


def encode(message: Message[Any], more_options: Mapping[str, Any] | None = None) -> bytes:
    """Encode a message as JSON, so that :func:`decode` returns an equal message.

    Tuples become lists.

    Args:
        more_options: options that the message has in addition.

    Raises:
        InvalidJob: an argument is not JSON (a set, a time, NaN, a lone surrogate), contains an
            integer of more than 64 bits, or is nested too deeply.
    """
    fields = message.asdict()
    if more_options is not None:  # not in the message, which is the sender's
        fields["options"] = {**message.options, **more_options}
    try:
        data = orjson.dumps(fields, option=_STRICT)
    except TypeError as error:  # from orjson: the text names types, never values
        raise InvalidJob(f"expected arguments that JSON can hold: {error}") from None
    # orjson silently writes NaN and infinity as null.
    if b"null" in data and not is_finite(fields):
        raise InvalidJob("expected arguments that JSON can hold: a number is not finite")
    levels = MAX_LEVELS + (_FROZEN_LEVELS if is_frozen(message) else 0)
    if is_deeper(fields, data, levels):
        raise InvalidJob(f"expected arguments of at most {MAX_LEVELS} levels, got more")
    return data


def decode(
    data: bytes,
    *,
    queue_name: str,
    job_types: Mapping[str, str],
    message_id: str | None = None,
) -> Message[Any]:
    """Decode a message or a plain job.

    Args:
        queue_name: the queue that the message was fetched from.
        job_types: actor name by job type, for plain jobs.
        message_id: the id of a plain job, which should be the same at each delivery; None: a new
            id.

    Raises:
        Undecodable: names the expected and the found type, and quotes no data.
    """
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Undecodable(f"expected JSON, got {len(data)} bytes that are not") from None
    if not isinstance(fields, dict):
        raise Undecodable(f"expected a JSON object, got {_kind(fields)}")
    _check_can_be_written(fields, data)
    if "actor_name" not in fields and "type" in fields:
        return _from_plain_job(fields, queue_name, job_types, message_id)
    return _message(fields, queue_name)


def _message(fields: Mapping[str, Any], queue_name: str) -> Message[Any]:
    """Make a message of decoded fields, after checking each field.

    Raises:
        Undecodable: a field is missing or has a wrong type.
    """
    try:
        args, kwargs, options = fields["args"], fields["kwargs"], fields["options"]
        actor_name, message_id = fields["actor_name"], fields["message_id"]
        timestamp = fields["message_timestamp"]
    except KeyError as missing:
        raise Undecodable(f"expected a message with {missing}, got a message without") from None
    # A wrong type would end a worker thread of Dramatiq.
    if not (
        isinstance(args, list)
        and isinstance(kwargs, dict)
        and isinstance(options, dict)
        and isinstance(actor_name, str)
        and isinstance(message_id, str)
        and isinstance(timestamp, int)
    ):
        raise _wrong_kind(fields)
    # Dramatiq passes this option to isinstance(): a JSON value would end the worker thread.
    if options and options.get("throws"):
        raise Undecodable("expected no 'throws' in the options of a message, but it is set")
    return Message(
        # Not the queue in the message, since the worker settles on this queue.
        queue_name=queue_name,
        actor_name=actor_name,
        args=tuple(args),
        kwargs=kwargs,
        options=options,
        message_id=message_id,
        message_timestamp=timestamp,
    )


def _wrong_kind(fields: Mapping[str, Any]) -> Undecodable:
    kinds = {"args": list, "kwargs": dict, "options": dict, "actor_name": str, "message_id": str}
    wrong = [(name, kind) for name, kind in kinds.items() if not isinstance(fields[name], kind)]
    name, kind = wrong[0] if wrong else ("message_timestamp", int)
    return Undecodable(
        f"expected {name} of a message to be {kind.__name__}, got {_kind(fields[name])}"
    )


def _from_plain_job(
    fields: dict[str, Any], queue_name: str, job_types: Mapping[str, str], message_id: str | None
) -> Message[Any]:
    kind = fields["type"]
    actor_name = job_types.get(kind) if isinstance(kind, str) else None
    if actor_name is None:
        known = ", ".join(sorted(job_types)) or "none"
        raise Undecodable(f"expected a known job type ({known}), got another type")
    metadata = fields.get("metadata")
    kwargs = {"payload": fields.get("payload"), "metadata": metadata if metadata else {}}
    return Message(queue_name, actor_name, (), kwargs, {}, message_id or str(uuid4()))


def encode_batch(batch: Batch, options: dict[str, Any]) -> Message[Any]:
    """Store a batch as one message, with its parts, their order and their options."""
    parts = [
        {
            "message_id": part.message_id,
            "message_timestamp": part.message_timestamp,
            "kwargs": part.kwargs,
            "options": {**part.options, REDELIVERED: True}
            if part.is_redelivered or batch.is_redelivered
            else part.options,
        }
        | ({ARGS: list(part.args)} if part.args else {})
        for part in batch.parts
    ]
    return batch.message.copy(kwargs={BATCH: parts}, options={**options, "frozen": True})


def decode_batch(message: Message[Any], tag: Any, raw: bytes | None = None) -> Batch:
    """Restore a batch from the message that :func:`encode_batch` made.

    Args:
        tag: the handle by which the consumer settles the batch.
        raw: the encoded message.

    Raises:
        Undecodable: the message is marked as a frozen batch, and its parts are missing or invalid.
    """
    queue = message.queue_name
    try:
        parts = [
            # Each part is checked like a message, since it may be dead-lettered as a message.
            Delivery(_message({ARGS: [], **part, "actor_name": message.actor_name}, queue), None)
            for part in message.kwargs[BATCH]
        ]
    except (KeyError, TypeError, Undecodable):
        raise Undecodable("expected a frozen batch with its parts, got something else") from None
    whole = message.copy(kwargs={BATCH: [part.call for part in parts]})
    return Batch(whole, tag, parts, raw)


def is_frozen(message: Message[Any]) -> bool:
    """Whether the message is a batch stored by :func:`encode_batch`."""
    return message.options.get("frozen") is True


def priority_in(options: Mapping[str, Any]) -> int | None:
    """Return the priority in the options of a message, 0 to 9; None without a valid priority."""
    priority = options.get("broker_priority")
    if isinstance(priority, bool) or not isinstance(priority, int):
        return None
    return priority if 0 <= priority <= 9 else None


def wrap_undecodable(
    data: bytes, *, queue_name: str, message_id: str, failure: Failure
) -> Message[Any]:
    """Make a dead letter that contains bytes that cannot be decoded."""
    return Message(
        queue_name=queue_name,
        actor_name=UNDECODABLE,
        args=(),
        kwargs={},
        options={**_kept(data), FAILURE: failure.to_json()},
        message_id=message_id,
    )


def decode_or_wrap(
    data: bytes,
    *,
    queue_name: str,
    job_types: Mapping[str, str],
    message_id: str | None,
    now: float,
    failure: Failure | None = None,
) -> Message[Any]:
    """Decode a message; make a dead letter of bytes that cannot be decoded.

    Args:
        now: unix time in seconds, for the failure.
        failure: why the message was dead-lettered, if that is stored next to the body.
    """
    if failure is None or failure.reason is not Reason.UNDECODABLE:
        try:
            return decode(
                data, queue_name=queue_name, job_types=job_types, message_id=message_id or None
            )
        except Undecodable as error:
            failure = failure or Failure.undecodable(error, now=now)
    id = message_id or "unknown"
    return wrap_undecodable(data, queue_name=queue_name, message_id=id, failure=failure)


def _kept(data: bytes) -> dict[str, str]:
    """Return the option that contains the bytes: base64, or text if large and shorter."""
    if len(data) > _LARGE:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            pass
        else:
            if 3 * len(orjson.dumps(text)) < 4 * len(data):
                return {_RAW_TEXT: text}
    return {_RAW: base64.b64encode(data).decode()}


def undecodable_bytes(message: Message[Any]) -> bytes | None:
    """Return the bytes that :func:`wrap_undecodable` wrapped; None for an ordinary message."""
    raw, text = message.options.get(_RAW), message.options.get(_RAW_TEXT)
    if message.actor_name == UNDECODABLE and isinstance(text, str):
        return text.encode()
    if message.actor_name == UNDECODABLE and isinstance(raw, str):
        with suppress(ValueError):  # not from wrap_undecodable()
            return base64.b64decode(raw, validate=True)
    return None


def without_options(message: Message[Any], *names: str) -> Message[Any]:
    """Copy a message without some of its options; Message.copy could only add options."""
    options = {name: value for name, value in message.options.items() if name not in names}
    return Message(**{**message.asdict(), "options": options})


def _check_can_be_written(fields: dict[str, Any], data: bytes) -> None:
    """Check that :func:`encode` can encode the decoded fields again without loss.

    Raises:
        Undecodable: an integer has more than 64 bits, or the fields are nested too deeply.
    """
    if is_deeper(fields, data, MAX_LEVELS) and (
        not _is_marked_frozen(fields) or is_deeper(fields, data, MAX_LEVELS + _FROZEN_LEVELS)
    ):
        raise Undecodable(f"expected JSON of at most {MAX_LEVELS} levels, got more")
    if has_long_integer(data):
        raise Undecodable("expected integers of at most 64 bits, got a larger integer")


def _is_marked_frozen(fields: dict[str, Any]) -> bool:
    options = fields.get("options")
    return isinstance(options, dict) and options.get("frozen") is True


def _kind(value: object) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")
