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
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import orjson
from dramatiq import Message

from ..core.errors import BrokerError, InvalidJob
from ..core.failure import Failure, Reason
from ..middleware.delivery import ARGS, BATCH, FAILURE, Batch, Delivery

#: The actor name of quarantined bytes; no actor can have it, so that nothing runs them.
QUARANTINE = "formrelay:quarantine"
_RAW, _RAW_TEXT = "raw", "raw_text"
#: More bytes than this are kept as text where that is shorter: base64 adds a third.
_LARGE = 64 * 1024
#: How deep a message may be nested. orjson reads 1,024 levels and writes 254; what is read
#: must also be written again to be settled, and in a frozen batch it lies a little deeper.
MOST_LEVELS = 200
_FROZEN_LEVELS = 10
_CONTAINERS = (dict, list, tuple)
_NO_MARKS = bytes(set(range(256)) - set(b'{}[]"'))
_INTEGERS = range(-(2**63), 2**64)
# The shortest integer outside of them has 19 digits; a float with as many only costs a look.
_LONG_NUMBER = b"0" * 19
#: Makes a zero of each digit: looking for a run of them is then one search for bytes,
#: which a regular expression would be 20 times slower at, on each message.
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
# A time or a dataclass is not JSON: it would come back as something else.
_STRICT = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS


class Undecodable(BrokerError):
    """The bytes are neither a message nor a job."""


def encode(message: Message[Any]) -> bytes:
    """A message as JSON.

    What comes back from :func:`decode` is what was given (a tuple as a list),
    or nothing is written.

    Raises:
        InvalidJob: an argument is not JSON (a set, a time, NaN, a lone surrogate),
            has an integer beyond 64 bit, or is nested too deeply.
    """
    fields = message.asdict()
    try:
        data = orjson.dumps(fields, option=_STRICT)
    except TypeError as error:  # orjson.JSONEncodeError is one; its text names types, not values
        raise InvalidJob(f"expected arguments that JSON can hold: {error}") from None
    # orjson writes NaN and infinity as null, without a word.
    if b"null" in data and not _is_finite(fields):
        raise InvalidJob("expected arguments that JSON can hold: a number is not finite")
    most = MOST_LEVELS + (_FROZEN_LEVELS if is_frozen(message) else 0)
    if _may_be_deeper(data, most) and _is_deeper(fields, most):
        raise InvalidJob(f"expected arguments of at most {MOST_LEVELS} levels, got more")
    return data


def decode(
    data: bytes,
    *,
    queue_name: str,
    job_types: Mapping[str, str],
    message_id: str | None = None,
) -> Message[Any]:
    """The message in ``data``, as it came off ``queue_name``.

    Args:
        job_types: actor name by job type, for the plain jobs of other publishers.
        message_id: of a plain job, the id that the broker knows it by: the same at each
            delivery. Without one it gets a new one.

    Raises:
        Undecodable: what was expected and what came, without quoting the data.
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
    """A message of its fields, each looked at.

    Raises:
        Undecodable: one is missing, or of another kind.
    """
    try:
        args, kwargs, options = fields["args"], fields["kwargs"], fields["options"]
        actor_name, message_id = fields["actor_name"], fields["message_id"]
        timestamp = fields["message_timestamp"]
    except KeyError as missing:
        raise Undecodable(f"expected a message with {missing}, got one without") from None
    # Dramatiq's worker dies of some of these; so each is looked at here.
    if not (
        isinstance(args, list)
        and isinstance(kwargs, dict)
        and isinstance(options, dict)
        and isinstance(actor_name, str)
        and isinstance(message_id, str)
        and isinstance(timestamp, int)
    ):
        raise _wrong_kind(fields)
    # A worker thread uses it with isinstance(), and dies of anything that JSON can hold.
    if options and options.get("throws"):
        raise Undecodable("expected no 'throws' in the options of a message, got it")
    return Message(
        # The queue that it came from, whatever the message says: the worker settles by it.
        queue_name=queue_name,
        actor_name=actor_name,
        args=tuple(args),
        kwargs=kwargs,
        options=options,
        message_id=message_id,
        message_timestamp=timestamp,
    )


def _wrong_kind(fields: Mapping[str, Any]) -> Undecodable:
    for name, kind in (
        ("args", list),
        ("kwargs", dict),
        ("options", dict),
        ("actor_name", str),
        ("message_id", str),
        ("message_timestamp", int),
    ):
        if not isinstance(fields[name], kind):
            break
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
        raise Undecodable(f"expected a known job type ({known}), got another one")
    metadata = fields.get("metadata")
    kwargs = {"payload": fields.get("payload"), "metadata": metadata if metadata else {}}
    return Message(queue_name, actor_name, (), kwargs, {}, message_id or str(uuid4()))


def encode_batch(batch: Batch, options: dict[str, Any]) -> Message[Any]:
    """A batch as one message that keeps its parts, their order and their options."""
    parts = [
        {
            "message_id": part.message_id,
            "message_timestamp": part.message_timestamp,
            "kwargs": part.kwargs,
            "options": part.options,
        }
        | ({ARGS: list(part.args)} if part.args else {})
        for part in batch.parts
    ]
    return batch.message.copy(kwargs={BATCH: parts}, options={**options, "frozen": True})


def thaw(message: Message[Any], tag: Any, raw: bytes | None = None) -> Batch:
    """The inverse of :func:`encode_batch`; ``raw`` is the message's encoding.

    Raises:
        Undecodable: the message says that it is a frozen batch, and is not.
    """
    queue = message.queue_name
    try:
        parts = [
            # Each part is looked at as if it had come by itself: it may be buried by itself.
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
    """The priority of a message, 0 to 9, by its options; None where it has none."""
    priority = options.get("broker_priority")
    return priority if isinstance(priority, int) and 0 <= priority <= 9 else None


def quarantine(data: bytes, *, queue_name: str, message_id: str, failure: Failure) -> Message[Any]:
    """Bytes that could not be decoded, as a dead letter that keeps them."""
    return Message(
        queue_name=queue_name,
        actor_name=QUARANTINE,
        args=(),
        kwargs={},
        options={**_kept(data), FAILURE: failure.to_json()},
        message_id=message_id,
    )


def decode_or_quarantine(
    data: bytes,
    *,
    queue_name: str,
    job_types: Mapping[str, str],
    message_id: str | None,
    now: float,
    failure: Failure | None = None,
) -> Message[Any]:
    """Decode a message; bytes that cannot be decoded become a dead letter that keeps them.

    Args:
        now: unix time, for the record of the failure.
        failure: why the message was dead-lettered, where that is recorded beside the body.
    """
    if failure is None or failure.reason is not Reason.UNDECODABLE:
        try:
            return decode(
                data, queue_name=queue_name, job_types=job_types, message_id=message_id or None
            )
        except Undecodable as error:
            failure = failure or Failure.undecodable(error, now=now)
    id = message_id or "unknown"
    return quarantine(data, queue_name=queue_name, message_id=id, failure=failure)


def _kept(data: bytes) -> dict[str, str]:
    """Bytes as JSON can hold them: base64, which any tool reads, or large text as it is."""
    if len(data) > _LARGE:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            pass
        else:
            if 3 * len(orjson.dumps(text)) < 4 * len(data):
                return {_RAW_TEXT: text}
    return {_RAW: base64.b64encode(data).decode()}


def revive(message: Message[Any]) -> bytes:
    """What to put back on the queue when a dead letter is replayed.

    Quarantined bytes go back exactly as they came; anything else starts again
    with its attempts at zero.
    """
    raw, text = message.options.get(_RAW), message.options.get(_RAW_TEXT)
    if message.actor_name == QUARANTINE and isinstance(text, str):
        return text.encode()
    if message.actor_name == QUARANTINE and isinstance(raw, str):
        try:
            return base64.b64decode(raw, validate=True)
        except ValueError:  # somebody else's message under that name: one like any other
            pass
    options = {
        name: value
        for name, value in message.options.items()
        if name not in (FAILURE, "retries", "eta")
    }
    # Message.copy only adds options; the fields are given anew to take some away.
    return encode(Message(**{**message.asdict(), "options": options}))


def _check_can_be_written(fields: dict[str, Any], data: bytes) -> None:
    """Refuse what could not be written again as it came.

    Raises:
        Undecodable: an integer beyond 64 bit (orjson makes a float of it), or
            too many levels.
    """
    if _may_be_deeper(data, MOST_LEVELS) and (
        _is_deeper(fields, MOST_LEVELS + _FROZEN_LEVELS)
        or (not _says_frozen(fields) and _is_deeper(fields, MOST_LEVELS))
    ):
        raise Undecodable(f"expected JSON of at most {MOST_LEVELS} levels, got more")
    if _LONG_NUMBER in data.translate(_DIGITS_TO_ZERO):
        try:
            json.loads(data, parse_int=_check_integer)
        except ValueError:
            raise Undecodable("expected integers of at most 64 bit, got a larger one") from None


def _check_integer(text: str) -> None:
    # The length first: Python itself refuses to read thousands of digits.
    if len(text) > 20 or int(text) not in _INTEGERS:
        raise ValueError


def _says_frozen(fields: dict[str, Any]) -> bool:
    options = fields.get("options")
    return isinstance(options, dict) and options.get("frozen") is True


def _may_be_deeper(data: bytes, levels: int) -> bool:
    """Whether it takes a look at the values to know that they are not nested deeper.

    Of nearly every message it does not, and counting bytes costs nothing. Of one with many
    brackets those outside of texts are taken away from the inside, a level or two at a time.

    Args:
        data: JSON, and no other bytes.
    """
    if data.count(b"{") + data.count(b"[") <= levels:
        return False
    # In a text a backslash begins an escape, so that pairs of them are found from the left.
    unescaped = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = unescaped.translate(None, _NO_MARKS).split(b'"')[::2]
    brackets = b"".join(outside)
    for _ in range(levels // 2):
        if not brackets:
            return False
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
    return True


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether ``value`` is nested deeper than ``levels``."""
    level = [value]
    for _ in range(levels):
        level = [
            child for one in level for child in _children(one) if isinstance(child, _CONTAINERS)
        ]
        if not level:
            return False
    return True


def _is_finite(value: Any) -> bool:
    """Whether every number in ``value`` is; in one flat loop, since many a message has nulls."""
    left = [value]
    while left:
        for child in _children(left.pop()):
            if type(child) is float:
                if not math.isfinite(child):
                    return False
            elif isinstance(child, _CONTAINERS):
                left.append(child)
    return True


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


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
