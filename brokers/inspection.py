"""Interface to inspect and manage queues, the same for every broker, with its types."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from dramatiq import Message

from ..core.errors import BrokerError
from ..core.failure import Failure, Reason
from .contract import BrokerContract
from .fields import form_ids


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


#: Called during a long operation with the number of messages processed so far.
Progress: TypeAlias = Callable[[int], object]

Action: TypeAlias = Literal["replay", "delete"]


class Inspector(ABC):
    """Inspects queues without losing or reordering messages; pauses, purges and replays.

    ``queue=None`` means every queue of :meth:`queues`.
    """

    def __init__(self, broker: BrokerContract) -> None:
        self._broker = broker

    # -- queues ------------------------------------------------------------------------

    def queues(self) -> list[str]:
        """Names of the queues declared in this process, and of :meth:`other_queues` if the
        broker can list its queues."""
        try:
            others = self.other_queues()
        except NotAvailable:
            others = set()
        return sorted(self._broker.queues | others)

    def other_queues(self) -> set[str]:
        """Names of the queues that the broker has and this process does not declare.

        Redis has a queue while it has a message or is paused. A broker inside the process has
        none.

        Raises:
            NotAvailable: the broker does not list its queues.
        """
        return set()

    def check_listing(self) -> None:
        """Check that :meth:`other_queues` works.

        Raises:
            NotAvailable: the broker does not list its queues.
        """
        self.other_queues()

    def scheduled_in_all(self) -> int | None:
        """Number of scheduled messages of all queues together, if the broker cannot count the
        scheduled messages of each; otherwise None."""
        return None

    def has_queue(self, name: str) -> bool:
        """Whether a queue is declared in this process or exists on the broker."""
        return name in self._broker.queues or name in self.queues()

    # -- looking -----------------------------------------------------------------------

    @abstractmethod
    def counts(self, queue: str) -> QueueCounts:
        """Count the messages of a queue in each state."""

    def counts_of(self, queues: Sequence[str]) -> list[QueueCounts]:
        """Count the messages of several queues, in the order given.

        On Redis, two round trips for all queues together.
        """
        return [self.counts(queue) for queue in queues]

    @abstractmethod
    def browse(
        self, queue: str, state: State, *, limit: int = 50, cursor: str | None = None
    ) -> Page:
        """Return one page of the messages in a state.

        Waiting messages are in the order of delivery, scheduled messages by due time, dead letters
        by time of death. A page may have fewer than ``limit`` entries without being the last page.
        On Redis, no message is skipped or repeated because others come or go between two pages.

        Args:
            cursor: the cursor of the previous page; None for the first page.

        Raises:
            NotAvailable: this broker cannot list messages in this state.
            UnknownCursor: the cursor belongs to another query.
        """

    @abstractmethod
    def find(self, id: str, queue: str | None = None) -> Entry | None:
        """Find a message in any state by its id; None if there is none.

        Raises:
            NotAvailable: no dead letter has the id, and this broker lists no other messages.
        """

    @abstractmethod
    def run_now(self, queue: str, id: str) -> bool:
        """Make a scheduled message due now; False if no scheduled message has the id.

        Raises:
            NotAvailable
        """

    def cancel(self, queue: str, id: str) -> bool:
        """Delete a waiting or scheduled message; False if there is none, or if it is in flight.

        Raises:
            NotAvailable
        """
        raise NotAvailable("cancelling jobs")

    @abstractmethod
    def workers(self) -> list[WorkerInfo]:
        """List the worker processes; on Redis, the latest heartbeat first.

        Raises:
            NotAvailable
        """

    # -- pausing, purging ----------------------------------------------------------------

    @abstractmethod
    def pause(self, queue: str) -> None:
        """Stop all workers from fetching messages of a queue; running messages are finished."""

    @abstractmethod
    def resume(self, queue: str) -> None:
        """Let workers fetch messages of a paused queue again."""

    @abstractmethod
    def is_paused(self, queue: str) -> bool:
        """Whether a queue is paused."""

    def purge(self, queue: str, *, dry_run: bool = False) -> int:
        """Delete the waiting messages and, on Redis, the scheduled messages; keep dead letters.

        Args:
            dry_run: only count.

        Returns:
            Number of messages that were deleted, or would be.
        """
        if not dry_run:
            return self._broker.drop_waiting(queue)
        counts = self.counts(queue)
        return counts.waiting + (counts.scheduled or 0)

    # -- dead letters ----------------------------------------------------------------------

    @abstractmethod
    def dead_letters(self, which: DeadFilter, *, limit: int = 100) -> Iterator[Entry]:
        """Yield the dead letters that match, queue by queue, the oldest first."""

    @abstractmethod
    def newest_dead(self, queue: str, *, limit: int = 10) -> list[Entry]:
        """Return the newest dead letters of a queue, the newest first; at most 50.

        Raises:
            NotAvailable: this broker would have to read too many older dead letters.
        """

    @abstractmethod
    def dead_letter(self, queue: str, id: str) -> Entry | None:
        """Return a dead letter by its id; None if there is none."""

    @abstractmethod
    def dead_ids(
        self, prefix: str, queue: str | None = None, *, limit: int = 10
    ) -> list[tuple[str, str]]:
        """Return queue and id of the dead letters whose id begins with ``prefix``.

        If one of these ids equals ``prefix``, only that id is returned.
        """

    def ids(
        self, prefix: str, queue: str | None = None, *, limit: int = 10
    ) -> list[tuple[str, str]]:
        """Return queue and id of the messages in any state whose id begins with ``prefix``.

        If one of these ids equals ``prefix``, only that id is returned. Where the broker lists
        dead letters only, only these are searched.
        """
        return self.dead_ids(prefix, queue, limit=limit)

    def replay(
        self,
        which: Which,
        *,
        queue: str | None = None,
        dry_run: bool = False,
        progress: Progress = lambda _count: None,
    ) -> int:
        """Put dead letters back on their queues, with no attempts; return their number.

        A message that is dead-lettered again during the call is not replayed twice.

        Args:
            which: a filter, or ids.
            queue: the queue of the ids.
            dry_run: only count.
            progress: called with the number of dead letters so far.
        """
        return _total(self._change("replay", which, queue, dry_run), progress)

    def delete_dead(
        self,
        which: Which,
        *,
        queue: str | None = None,
        dry_run: bool = False,
        progress: Progress = lambda _count: None,
    ) -> int:
        """Delete dead letters; return their number. Arguments as of :meth:`replay`."""
        return _total(self._change("delete", which, queue, dry_run), progress)

    @abstractmethod
    def _change(
        self, action: Action, which: Which, queue: str | None, dry_run: bool
    ) -> Iterator[int]:
        """Replay or delete dead letters in steps, or only count them; yield their numbers."""

    def _queues(self, queue: str | None) -> list[str]:
        return [queue] if queue is not None else self.queues()


def _total(steps: Iterator[int], progress: Progress) -> int:
    count = 0
    for step in steps:
        count += step
        progress(count)
    return count
