"""Inspects and manages queues in RabbitMQ.

AMQP gives the number of waiting messages and the dead letters. The management API, if it is
configured, gives the workers and the number of messages in flight. Waiting messages cannot be
listed: RabbitMQ would mark each of them as redelivered, and so as suspected of killing a worker.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from pika import spec

from ..base import RelayBroker
from ..errors import BrokerRefused, BrokerUnavailable
from ..inspection import (
    Action,
    DeadFilter,
    Entry,
    Extent,
    Inspector,
    NotAvailable,
    Page,
    Progress,
    QueueCounts,
    SavedLetter,
    State,
    UnknownCursor,
    Which,
    WorkerInfo,
)
from ..reported_workers import read_reports, reported_queues
from ..settlement import Write
from ..steps import chunks
from .client import RabbitClient
from .connection import Connection
from .dead_changes import DeadLetterChange
from .dead_letters import queue_status, read_dead_letters, ready_count
from .management import Management
from .pauses import QueuePause
from .topology import DELAY_QUEUES, delay_name

logger = logging.getLogger("formrelay.brokers")

T = TypeVar("T")

#: Seconds to wait until no process reads the dead letters, before they are counted.
_COUNT_TIMEOUT = 2.0
#: Maximum number of older dead letters to read in order to find the newest.
_MAX_SCANNED = 500
#: Number of dead letters that are added in one call.
_ADDED_PER_CALL = 250


class RabbitInspector(Inspector):
    """Inspects and manages the queues of one RabbitMQ."""

    def __init__(
        self, broker: RelayBroker, client: RabbitClient, management: Management | None
    ) -> None:
        super().__init__(broker)
        self._client = client
        self._management = management
        self._read = partial(read_dead_letters, client, job_types=broker.job_types)

    # -- queues ------------------------------------------------------------------------

    def other_queues(self) -> set[str]:
        if self._management is None:
            reports = read_reports(self._broker)
            if reports is None:
                raise NotAvailable("listing queues without RABBITMQ_API_URL")
            return reported_queues(reports) - self._broker.queues
        try:
            names = self._management.queues()
        except (BrokerUnavailable, BrokerRefused) as error:
            raise NotAvailable(f"listing queues ({error})") from None
        dead_queue = self._client.topology.dead_queue
        return {name for name in names if dead_queue(name) in names} - self._broker.queues

    def check_listing(self) -> None:
        if self._management is None:  # reports tell only of queues that have workers
            raise NotAvailable("listing queues that have no worker without RABBITMQ_API_URL")
        super().check_listing()

    def consumed(self, queues: Collection[str]) -> set[str]:
        with self._client.connection(queues) as connection:
            return {name for name in queues if queue_status(connection, name).consumer_count}

    def scheduled_in_all(self) -> int:
        return scheduled_count(self._client)

    def has_queue(self, name: str) -> bool:
        if name in self._broker.queues:
            return True
        names = (name, self._client.topology.dead_queue(name))
        with self._client.connection() as connection:
            return all(
                connection.find(spec.Queue.Declare(queue=queue, passive=True)) for queue in names
            )

    # -- inspection --------------------------------------------------------------------

    def counts(self, queue: str) -> QueueCounts:
        management = self._management
        return self._counts(
            queue, self._asked(None if management is None else partial(management.in_flight, queue))
        )

    def counts_of(self, queues: Sequence[str]) -> list[QueueCounts]:
        management = self._management
        in_flight = self._asked(None if management is None else management.in_flight_of_all)
        return [
            self._counts(queue, None if in_flight is None else in_flight.get(queue, 0))
            for queue in queues
        ]

    def _counts(self, queue: str, in_flight: int | None) -> QueueCounts:
        with self._client.connection([queue]) as connection:
            waiting = ready_count(connection, queue)
            dead = self._dead_count(connection, queue)
            is_paused: bool | None
            try:
                is_paused = self._read_pause(connection, queue)
            except BrokerRefused:
                is_paused = None
        return QueueCounts(
            queue,
            waiting,
            scheduled=None,  # the delay queues are shared by all queues
            in_flight=in_flight,
            dead=dead,
            paused=is_paused,
        )

    def _dead_count(self, connection: Connection, queue: str) -> int:
        """Count the dead letters, when no process reads them: RabbitMQ does not count them then."""
        deadline = time.monotonic() + _COUNT_TIMEOUT
        while True:
            found = queue_status(connection, self._client.topology.dead_queue(queue))
            if not found.consumer_count or time.monotonic() > deadline:
                return int(found.message_count)
            time.sleep(0.02)

    def _asked(self, ask: Callable[[], T] | None) -> T | None:
        """Return what the management API answers; None without it, or if it fails."""
        try:
            return None if ask is None else ask()
        except (BrokerUnavailable, BrokerRefused) as error:
            # The other counts are still correct.
            extra = {"error_message": error.message}
            logger.warning("cannot count the messages in flight", extra=extra)
            return None

    def browse(
        self, queue: str, state: State, *, limit: int = 50, cursor: str | None = None
    ) -> Page:
        if state is not State.DEAD:
            raise NotAvailable(f"listing {state.replace('_', ' ')} messages")
        try:
            first = int(cursor or 0)
        except ValueError:
            raise UnknownCursor from None
        # AMQP cannot start reading in the middle of a queue.
        found = self._read(queue, limit=first + limit + 1)
        page = found.entries[first : first + limit]
        if not page and not found.is_complete:
            raise self._too_many("more dead letters", queue, found.looked_at)
        more = len(found.entries) > first + limit or not found.is_complete
        return Page(page, str(first + len(page)) if more else None)

    def find(self, id: str, queue: str | None = None) -> Entry | None:
        for name in self._queues(queue):
            if (found := self.dead_letter(name, id)) is not None:
                return found
        raise NotAvailable(
            f"finding a job that is not dead-lettered ({id!r} is not among the dead letters)"
        )

    def run_now(self, queue: str, id: str) -> bool:
        raise NotAvailable("running a scheduled job at once")

    def cancel(self, queue: str, id: str) -> bool:
        raise NotAvailable(
            "cancelling a job: RabbitMQ delivers jobs in order and cannot remove one of them"
        )

    def listed_workers(self) -> list[WorkerInfo]:
        if self._management is None:
            raise NotAvailable("listing workers without RABBITMQ_API_URL and STATE_URL")
        return self._management.workers()

    # -- pausing -----------------------------------------------------------------------

    def pause(self, queue: str) -> None:
        with self._client.connection() as connection:
            QueuePause(self._client, queue).set(connection, is_paused=True)

    def resume(self, queue: str) -> None:
        with self._client.connection() as connection:
            QueuePause(self._client, queue).set(connection, is_paused=False)

    def is_paused(self, queue: str) -> bool:
        with self._client.connection() as connection:
            return self._read_pause(connection, queue)

    def _read_pause(self, connection: Connection, queue: str) -> bool:
        pause = QueuePause(self._client, queue)
        pause.read(connection)
        return pause.is_paused

    # -- dead letters ------------------------------------------------------------------

    def dead_letters(
        self, which: DeadFilter, *, limit: int | None = 100, extent: Extent | None = None
    ) -> Iterator[Entry]:
        is_everything = replace(which, queue=None) == DeadFilter()
        extent = extent or Extent()
        left = math.inf if limit is None else limit
        for name in self._queues(which.queue):
            if left <= 0:
                return
            most = min(extent.left, left if is_everything else math.inf)
            found = self._read(name, limit=most, matches=which.matches)
            extent.looked_at += found.looked_at
            extent.is_complete &= found.is_complete
            entries = found.entries[: int(min(left, len(found.entries)))]
            left -= len(entries)
            yield from entries

    def newest_dead(self, queue: str, *, limit: int = 10) -> list[Entry]:
        # AMQP delivers them oldest first, so all older dead letters are read as well.
        found = self._read(queue, limit=_MAX_SCANNED + 1)
        if not found.is_complete or found.looked_at > _MAX_SCANNED:
            raise NotAvailable(f"listing the newest of more than {_MAX_SCANNED} dead letters")
        return found.entries[::-1][: min(limit, 50)]

    def dead_letter(self, queue: str, id: str) -> Entry | None:
        found = self._read(
            queue,
            matches=lambda letter: letter.id == id,
            until=lambda content: content.message_id == id,
        )
        if not found.entries and not found.is_complete:
            raise self._too_many(f"the dead letter {id!r}", queue, found.looked_at)
        return next(iter(found.entries), None)

    def dead_ids(
        self, prefix: str, queue: str | None = None, *, limit: int = 10
    ) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        error: NotAvailable | None = None
        for name in self._queues(queue):
            read = self._read(name, matches=lambda letter: letter.id.startswith(prefix))
            if any(letter.id == prefix for letter in read.entries):
                return [(name, prefix)]
            found += [(name, letter.id) for letter in read.entries]
            if not read.is_complete:
                error = self._too_many(f"the dead letter {prefix!r}", name, read.looked_at)
        if error is not None and not found:
            raise error
        return found[:limit]

    def ids(
        self,
        prefix: str,
        queue: str | None = None,
        *,
        limit: int = 10,
        extent: Extent | None = None,
    ) -> list[tuple[str, str]]:
        if extent is None:
            return self.dead_ids(prefix, queue, limit=limit)
        which, found = DeadFilter(queue), list[tuple[str, str]]()
        for letter in self.dead_letters(which, limit=None, extent=extent):
            if letter.id == prefix:
                return [(letter.queue, prefix)]
            if letter.id.startswith(prefix):
                found.append((letter.queue, letter.id))
        return found[:limit]

    def _too_many(self, what: str, queue: str, looked_at: int) -> NotAvailable:
        return NotAvailable(
            f"finding {what} behind the oldest {looked_at:,} dead letters of {queue!r}, which "
            "RabbitMQ would hide for too long (use a filter to replay or delete)"
        )

    def _change(
        self, action: Action, which: Which, queue: str | None, most: int | None
    ) -> Iterator[int]:
        if isinstance(which, DeadFilter):
            queue, left = which.queue, math.inf
            is_everything = replace(which, queue=None) == DeadFilter()
            matches = None if is_everything else which.matches
        else:
            ids = set(which)
            matches, left = (lambda letter: letter.id in ids), len(ids)
        for name in self._queues(queue):
            change = DeadLetterChange(
                self._client,
                name,
                self._broker.job_types,
                action,
                matches,
                most_per_step=most,
                most=left,
            )
            for count in change.steps():
                yield count
                left -= count
            if not left:
                return

    def add_dead(
        self,
        queue: str,
        letters: Iterable[SavedLetter],
        *,
        progress: Progress = lambda _count: None,
    ) -> int:
        known = self._read(queue)
        if not known.is_complete:
            raise NotAvailable(
                f"comparing ids with more than the oldest {known.looked_at:,} dead letters of "
                f"{queue!r} (replay or delete some first)"
            )
        ids = {letter.id for letter in known.entries}
        count = added = 0
        for chunk in chunks(letters, _ADDED_PER_CALL):
            new = {letter.text_id: letter for letter in chunk if letter.text_id not in ids}
            ids |= new.keys()
            writes = [
                Write(id, letter.body, failure=letter.failure_beside_body(self._broker.job_types))
                for id, letter in new.items()
            ]
            if writes:
                self._client.write(queue, writes)
            count += len(chunk)
            added += len(new)
            progress(count)
        return added

    def _count_ids(self, ids: Collection[str], queue: str | None) -> int:
        wanted = set(ids)
        return sum(
            len(self._read(name, matches=lambda letter: letter.id in wanted).entries)
            for name in self._queues(queue)
        )


def scheduled_count(client: RabbitClient) -> int:
    """Count the scheduled messages of all queues, which share the delay queues."""
    with client.connection() as connection:
        return sum(ready_count(connection, delay_name(bit)) for bit in range(DELAY_QUEUES))
