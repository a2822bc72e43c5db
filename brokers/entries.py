"""The types of queues and messages as an inspector shows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

from dramatiq import Message

from ..core.failure import Failure
from ..state.worker_reports import WorkerReport


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
        dead_is_lower_bound: whether there may be more dead letters than ``dead``: RabbitMQ does not
            count the dead letters that a process is reading, replaying or deleting.
        dead_age: maximum age of ``dead``; None: it was just counted.
    """

    queue: str
    waiting: int
    scheduled: int | None
    in_flight: int | None
    dead: int
    paused: bool | None = None
    oldest_age: timedelta | None = None
    dead_is_lower_bound: bool = False
    dead_age: timedelta | None = None


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
        raw: the stored bytes.
    """

    queue: str
    id: str
    state: State
    message: Message[Any]
    due: float | None = None
    worker: str | None = None
    failure: Failure | None = None
    died: float | None = None
    raw: bytes = field(default=b"", repr=False, compare=False)


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
        report: what the process reports of itself; None without a shared store, and for workers of
            older versions and of stock Dramatiq.
    """

    id: str
    last_heartbeat: float | None
    queues: tuple[str, ...]
    name: str | None = None
    report: WorkerReport | None = None
