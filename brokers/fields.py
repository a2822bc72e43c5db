"""Reads the fields of a message that inspectors and filters need, whoever wrote the message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from dramatiq import Message

from ..core.failure import Failure
from ..core.past_attempts import DEAD, unix_seconds
from ..middleware.delivery import (
    ARGS,
    ATTEMPT_HISTORY,
    BATCH,
    DUE,
    FAILURE,
    REDELIVERED,
    REQUEUED,
    RETRIES,
)
from .attempt_history import records_in
from .entries import Entry
from .envelope import encode, priority_in, undecodable_bytes, without_options

#: A message of this size in bytes is small: every broker accepts it.
_SMALL = 16 * 1024


def form_ids(message: Message[Any]) -> set[str]:
    """Return the ids of the forms in a message, or in the parts of a frozen batch."""
    found: set[str] = set()
    for arguments in _calls(message):
        for part in arguments:
            for one in part if isinstance(part, list) else [part]:
                if isinstance(one, Mapping):
                    found |= _form_ids_of(one)
                    body = one.get("body")  # of a webhook
                    found |= _form_ids_of(body) if isinstance(body, Mapping) else set()
    return found


def _calls(message: Message[Any]) -> Iterator[list[Any]]:
    """Yield the payload and the metadata of each call in a message."""
    parts = message.kwargs.get(BATCH)
    calls: list[Any] = [{ARGS: message.args, "kwargs": message.kwargs}]
    calls += parts if isinstance(parts, list) else []
    for call in calls:
        if not isinstance(call, Mapping):
            continue
        args, kwargs = call.get(ARGS, ()), call.get("kwargs", {})
        named = kwargs.values() if isinstance(kwargs, Mapping) else ()
        yield [*(args if isinstance(args, list | tuple) else ()), *named]


def _form_ids_of(fields: Mapping[str, Any]) -> set[str]:
    names = ("formId", "form_id")
    return {value for name in names if isinstance(value := fields.get(name), str)}


def died_at(failure: Failure | None) -> float | None:
    """Return when a failure happened, Unix seconds."""
    return None if failure is None else unix_seconds(failure.at)


def timestamp_in(body: bytes | None) -> int | None:
    """Return when the message in a body was first sent, unix milliseconds; None if unknown."""
    try:
        found = orjson.loads(body or b"")["message_timestamp"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None  # a plain job, or bytes that cannot be decoded
    return found if isinstance(found, int) else None


def encode_for_replay(
    message: Message[Any], failure: Failure | None = None, *, size: int = 0
) -> bytes:
    """Encode a dead letter for its replay.

    Undecodable bytes are returned unchanged; other messages lose their failure, their number of
    attempts, their eta, and that they were redelivered before: somebody wants all of it tried anew.
    They keep the records of their attempts, for people. A large message keeps them only if it does
    not become larger, since the broker may refuse a message that is larger than the dead letter.

    Args:
        failure: the failure of the dead letter, if it is not in the message.
        size: size of the dead letter in bytes.
    """
    data = undecodable_bytes(message)
    if data is not None:
        return data
    records = records_in(message, failure, outcome=DEAD)
    message = without_options(message, FAILURE, RETRIES, REQUEUED, REDELIVERED, DUE, "eta")
    if not records:
        return encode(message)
    message.options[ATTEMPT_HISTORY] = records
    body = encode(message)
    if len(body) <= max(size, _SMALL):
        return body
    return encode(without_options(message, ATTEMPT_HISTORY))


def for_replay(letter: Entry) -> tuple[bytes, int | None]:
    """Return the body of a dead letter for its replay, and its priority if it has one.

    Bytes that cannot be decoded may be JSON with a priority all the same.
    """
    body = encode_for_replay(letter.message, letter.failure, size=len(letter.raw))
    try:
        options = orjson.loads(body)["options"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body, None
    return body, priority_in(options) if isinstance(options, Mapping) else None
