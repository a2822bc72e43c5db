"""What operators ask of a broker, and its answers, in the same words for each.

The questions are the methods of :class:`.inspector.Inspector`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeAlias

from dramatiq import Message

from ..core.errors import BrokerError
from ..core.failure import Failure, Reason
from ..middleware.delivery import ARGS, BATCH, FAILURE


class NotAvailable(BrokerError):
    """Not available on this broker."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: not available on this broker")


class UnknownCursor(BrokerError, ValueError):
    """The cursor is not of this question; begin without one."""


class State(StrEnum):
    """Where a message is."""

    WAITING = "waiting"
    SCHEDULED = "scheduled"
    IN_FLIGHT = "in_flight"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """How many messages a queue holds in each state.

    What a broker cannot tell is None ('not available on this broker'), never a guess.

    Attributes:
        paused: whether no worker takes messages of it.
        oldest_age: since the message that has waited longest was first sent; None
            where nothing waits as well.
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
    """A message as it stands on its queue.

    Attributes:
        id: on the broker; of our own messages it is the ``message_id``. A plain job that no
            worker has taken yet has none.
        message: what cannot be decoded is a quarantined one, which keeps the bytes.
        due: of a scheduled one, when it is to be delivered, unix seconds.
        worker: of one in flight, who holds it: ``host:pid`` where that is known, else
            the worker's id.
        failure: the last one; None where it has not failed, or where something else than
            formrelay buried it.
        died: of a dead one, when, unix seconds.
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
    """Some entries, in order, and where the next page begins (None: this was the last one)."""

    entries: list[Entry]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker process that the broker has heard of.

    Attributes:
        last_heartbeat: unix seconds, by this machine's clock. None where the broker does not
            say: it names only those whose connections live.
        name: ``host:pid``, where that is known.
    """

    id: str
    last_heartbeat: float | None
    queues: tuple[str, ...]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that will not be tried again by itself.

    Attributes:
        id: its id on the broker; of our own messages it is the ``message_id``.
        failure: why; None where something else than formrelay buried it.
    """

    queue: str
    id: str
    message: Message[Any]
    failure: Failure | None

    @classmethod
    def of(cls, queue: str, id: str, message: Message[Any]) -> DeadLetter:
        """The dead letter in ``message``."""
        return cls(queue, id, message, failure_in(message))


def failure_in(message: Message[Any]) -> Failure | None:
    """The record of the last failure that a message carries."""
    try:
        return Failure.from_json(message.options[FAILURE])
    except (KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which dead letters: those to which everything that is given applies.

    Attributes:
        error: the exception's type, ``module.QualName`` or its last part.
        since, until: died at or after, and before, unix seconds.
        form_id: of the payload, of a webhook's body, or of the metadata.
    """

    queue: str | None = None
    actor: str | None = None
    error: str | None = None
    reason: Reason | None = None
    since: float | None = None
    until: float | None = None
    form_id: str | None = None

    def matches(self, letter: Entry) -> bool:
        """Whether it is about this dead letter."""
        failure = letter.failure
        died = letter.died
        return (
            (self.queue is None or letter.queue == self.queue)
            and (self.actor is None or letter.message.actor_name == self.actor)
            and (self.reason is None or (failure is not None and failure.reason is self.reason))
            and (self.error is None or (failure is not None and _is_error(failure, self.error)))
            and (self.since is None or (died is not None and died >= self.since))
            and (self.until is None or (died is not None and died < self.until))
            and (self.form_id is None or self.form_id in form_ids(letter.message))
        )


#: Dead letters: by a filter, or by their ids.
Which: TypeAlias = DeadFilter | Collection[str]


def _is_error(failure: Failure, name: str) -> bool:
    return failure.error == name or failure.error.endswith(f".{name}")


def form_ids(message: Message[Any]) -> set[str]:
    """The forms that a message is about; of a frozen batch, those of its parts."""
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
    """The payload and the metadata of each call in a message."""
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
    """When a failure happened, unix seconds."""
    try:
        return None if failure is None else datetime.fromisoformat(failure.at).timestamp()
    except (TypeError, ValueError):
        return None
