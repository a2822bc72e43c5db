"""The types that :class:`.inspector.Inspector` takes and returns, the same for every broker."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeAlias

import orjson
from dramatiq import Message

from ..core.errors import BrokerError
from ..core.failure import Failure, Reason
from ..middleware.delivery import ARGS, BATCH, FAILURE
from .envelope import encode_for_replay, priority_in


class NotAvailable(BrokerError):
    """Not available on this broker."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: not available on this broker")


class UnknownCursor(BrokerError, ValueError):
    """The cursor belongs to another query; start without a cursor."""


class State(StrEnum):
    """The state of a message."""

    WAITING = "waiting"
    SCHEDULED = "scheduled"
    IN_FLIGHT = "in_flight"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """How many messages a queue holds in each state.

    None means not available on this broker.

    Attributes:
        paused: whether workers take no messages from the queue.
        oldest_age: time since the message that has waited longest was first sent; also None if no
            message waits.
    """

    queue: str
    waiting: int
    scheduled: int | None
    in_flight: int | None
    dead: int
    paused: bool | None = None
    oldest_age: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A message on its queue, in any state.

    Attributes:
        id: id on the broker; for formrelay's messages the ``message_id``. Empty for a plain job
            that no worker has taken yet.
        message: the message; undecodable bytes are wrapped in a quarantined message.
        due: when a scheduled message is delivered, Unix seconds.
        worker: the worker of a message in flight: ``host:pid`` if known, else the worker's id.
        failure: the last failure; None if the message has not failed, or was dead-lettered
            outside formrelay.
        died: when a dead message was dead-lettered, Unix seconds.
    """

    queue: str
    id: str
    state: State
    message: Message[Any]
    due: float | None = None
    worker: str | None = None
    failure: Failure | None = None
    died: float | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Entries in order, and the cursor of the next page (None on the last page)."""

    entries: list[Entry]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker process that the broker has heard of.

    Attributes:
        last_heartbeat: Unix seconds, by this machine's clock. None if the broker lists connected
            workers without heartbeats.
        name: ``host:pid``, if known.
    """

    id: str
    last_heartbeat: float | None
    queues: tuple[str, ...]
    name: str | None = None


def failure_in(message: Message[Any]) -> Failure | None:
    """Return the record of the last failure that a message carries."""
    try:
        return Failure.from_json(message.options[FAILURE])
    except (KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Selects the dead letters that match every given field.

    Attributes:
        error: the exception's type, ``module.QualName`` or its last part.
        since, until: dead-lettered at or after ``since`` and before ``until``, Unix seconds.
        form_id: form id in the payload, in the body of a webhook, or in the metadata.
    """

    queue: str | None = None
    actor: str | None = None
    error: str | None = None
    reason: Reason | None = None
    since: float | None = None
    until: float | None = None
    form_id: str | None = None

    def matches(self, letter: Entry) -> bool:
        """Whether a dead letter matches."""
        failure = letter.failure
        died = letter.died
        return (
            (self.queue is None or letter.queue == self.queue)
            and (self.actor is None or letter.message.actor_name == self.actor)
            and (self.reason is None or (failure is not None and failure.reason is self.reason))
            and (self.error is None or _is_error(failure, self.error))
            and (self.since is None or (died is not None and died >= self.since))
            and (self.until is None or (died is not None and died < self.until))
            and (self.form_id is None or self.form_id in form_ids(letter.message))
        )


#: Dead letters selected by a filter, or by ids.
Which: TypeAlias = DeadFilter | Collection[str]


def _is_error(failure: Failure | None, name: str) -> bool:
    return failure is not None and f".{failure.error}".endswith(f".{name}")


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
    try:
        return None if failure is None else datetime.fromisoformat(failure.at).timestamp()
    except (TypeError, ValueError):
        return None


def timestamp_in(body: bytes | None) -> int | None:
    """Return when the message in a body was first sent, unix milliseconds; None if unknown."""
    try:
        found = orjson.loads(body or b"")["message_timestamp"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None  # a plain job, or bytes that cannot be decoded
    return found if isinstance(found, int) else None


def for_replay(message: Message[Any]) -> tuple[bytes, int | None]:
    """Return the body of a dead letter for its replay, and its priority if it has one.

    Bytes that cannot be decoded may be JSON with a priority all the same.
    """
    body = encode_for_replay(message)
    try:
        options = orjson.loads(body)["options"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body, None
    return body, priority_in(options) if isinstance(options, Mapping) else None
