"""Inspects and manages queues in RabbitMQ.

AMQP gives the number of waiting messages and the dead letters. The management API, if it is
configured, gives the workers and the number of messages in flight. Waiting messages cannot be
listed: RabbitMQ would mark each of them as redelivered, and so as suspected of killing a worker.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from pika import spec

from ..base import RelayBroker
from ..errors import BrokerRefused, BrokerUnavailable
from ..inspection import (
    Action,
    DeadFilter,
    Editor,
    EditStep,
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
from ..queue_names import is_queue_name
from ..reported_workers import read_reports, reported_queues
from ..settlement import Write
from ..steps import chunks
from .client import RabbitClient
from .connection import Connection
from .counting import QueueCounter
from .dead_changes import DeadLetterChange, LetterEdits
from .dead_letters import Reading, read_dead_letters
from .management import Management
from .pauses import QueuePause

#: Seconds to wait until no process reads the dead letters, before they are counted.
_COUNT_TIMEOUT = 2.0
#: Maximum number of older dead letters to read in order to find the newest.
_MAX_SCANNED = 500
#: Number of dead letters that are added in one call.
_ADDED_PER_CALL = 250


class RabbitInspector(Inspector):
    """Inspects and manages the queues of one RabbitMQ."""

    def __init__(
        self,
        broker: RelayBroker,
        client: RabbitClient,
        management: Management | None,
        counter: QueueCounter,
    ) -> None:
        super().__init__(broker)
        self._client = client
        self._management = management
        self._counter = counter
        self._found: set[str] = set()

    # -- queues ------------------------------------------------------------------------

    def other_queues(self) -> set[str]:
        names = self._listed_queues()
        if names is None:
            reports = read_reports(self._broker)
            if reports is None:
                raise NotAvailable(f"listing queues {self._why_no_management()}")
            return reported_queues(reports) - self._broker.queues
        dead_queue = self._client.topology.dead_queue
        return {name for name in names if dead_queue(name) in names} - self._broker.queues

    def _listed_queues(self) -> set[str] | None:
        """Names of all queues, by the management API; None without it, or if it fails."""
        try:
            return None if self._management is None else self._management.queues()
        except (BrokerUnavailable, BrokerRefused):
            return None

    def check_listing(self) -> None:
        if self._listed_queues() is None:  # reports tell only of queues that have workers
            why = self._why_no_management()
            raise NotAvailable(f"listing queues that have no worker {why}")

    def degraded(self) -> str | None:
        return None if self._management is None else self._management.degraded()

    def _why_no_management(self) -> str:
        if self._management is None:
            return "without RABBITMQ_API_URL"
        return f"({self._management.problem()})"

    def consumed(self, queues: Collection[str]) -> set[str]:
        return self._counter.consumed(list(queues))

    def scheduled_in_all(self) -> int:
        return self._counter.scheduled()

    def has_queue(self, name: str) -> bool:
        if name in self._broker.queues:
            return True
        # RabbitMQ would remove line breaks from a name, and invent a name for "".
        if not is_queue_name(name):
            return False
        names = (name, self._client.topology.dead_queue(name))
        with self._client.connection() as connection:
            return all(
                connection.find(spec.Queue.Declare(queue=queue, passive=True)) for queue in names
            )

    def _may_exist(self, queue: str) -> bool:
        """Whether a queue exists: reading a queue that does not exist would declare it."""
        if queue not in self._found and self.has_queue(queue):
            self._found.add(queue)
        return queue in self._found

    def _read(self, queue: str, **how: Any) -> Reading:
        if not self._may_exist(queue):
            return Reading([], 0, True)
        return read_dead_letters(self._client, queue, self._broker.job_types, **how)

    # -- inspection --------------------------------------------------------------------

    def counts(self, queue: str) -> QueueCounts:
        return self.counts_of([queue])[0]

    def counts_of(self, queues: Sequence[str]) -> list[QueueCounts]:
        return self._counter.counts_of(queues)

    def _counts_now(self, queue: str) -> QueueCounts:
        """Count when no process reads the dead letters, if that is soon."""
        deadline = time.monotonic() + _COUNT_TIMEOUT
        while True:
            found = self.counts(queue)
            is_of_now = found.dead_age is None and not found.dead_is_lower_bound
            if is_of_now or time.monotonic() > deadline:
                return found
            time.sleep(0.02)

    def browse(
        self, queue: str, state: State, *, limit: int = 50, cursor: str | None = None
    ) -> Page:
        if state is not State.DEAD:
            raise NotAvailable(
                f"listing {state.replace('_', ' ')} messages", "dead letters can be listed"
            )
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
            "finding a job that is not dead-lettered", f"{id!r} is not among the dead letters"
        )

    def run_now(self, queue: str, id: str) -> bool:
        raise NotAvailable("running a scheduled job at once")

    def cancel(self, queue: str, id: str) -> bool:
        raise NotAvailable(
            "cancelling a job: RabbitMQ delivers jobs in order and cannot remove one of them"
        )

    def edit_all(
        self, queue: str, state: State, edit: Editor, *, dry_run: bool = False
    ) -> Iterator[EditStep]:
        is_waiting = state is State.WAITING
        if state is not State.DEAD and not (is_waiting and not dry_run):
            raise NotAvailable(f"looking at {state.replace('_', ' ')} messages")
        if is_waiting and self._client.topology.max_priority:
            # Moved messages would come back before messages of a lower priority.
            raise NotAvailable("looking at the waiting messages of a queue with priorities")
        if not self._may_exist(queue):
            return
        if dry_run:
            found = self._read(queue)
            edits = [(each, made) for each in found.entries if (made := edit(each)) is not None]
            yield replace(EditStep.of(found.looked_at, edits), is_complete=found.is_complete)
            return
        changes = LetterEdits(self._client, queue, self._broker.job_types, edit, waiting=is_waiting)
        yield from changes.edit_steps()

    def listed_workers(self) -> list[WorkerInfo]:
        if self._management is None:
            raise NotAvailable("listing workers", "set RABBITMQ_API_URL or STATE_URL")
        try:
            return self._management.workers()
        except (BrokerUnavailable, BrokerRefused) as error:
            raise NotAvailable(f"listing workers ({error})") from None

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
            if extent.whole_queues:
                for entry in self._read_whole(name, which.matches, extent):
                    if left > 0:
                        left -= 1
                        yield entry
                continue
            most = min(extent.left, left if is_everything else math.inf)
            found = self._read(name, limit=most, matches=which.matches)
            extent.looked_at += found.looked_at
            extent.is_complete &= found.is_complete
            entries = found.entries[: int(min(left, len(found.entries)))]
            left -= len(entries)
            yield from entries

    def _read_whole(
        self, queue: str, matches: Callable[[Entry], bool], extent: Extent
    ) -> Iterator[Entry]:
        """Yield the dead letters of a queue that match; look at all, and move them if too many."""
        found: list[Entry] = []

        def look(letter: Entry) -> bool:
            extent.looked_at += 1
            if matches(letter):
                found.append(letter)
            return False

        # In steps, so that no letter is held while the caller has an entry.
        steps = DeadLetterChange(
            self._client, queue, self._broker.job_types, "delete", look, most_per_step=1
        ).steps()
        for _ in steps:
            yield from found
            found.clear()

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
            "RabbitMQ would hide for too long (--whole-queue of formrelay dlq looks at all)"
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
        ids = {letter.id for letter in self._read_whole(queue, lambda _: True, Extent())}
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
