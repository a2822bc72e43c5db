"""Interface to inspect and manage queues, the same for every broker, with its types."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import timedelta

from .dead_inspection import Action, DeadLetterInspector
from .entries import Entry, Page, QueueCounts, State, WorkerInfo
from .errors import NotAvailable, UnknownCursor
from .filters import DeadFilter, Extent, Which
from .message_edits import Deleted, Edit, Editor, EditStep
from .reported_workers import read_reports, with_reports
from .saved_letters import SavedLetter
from .steps import Progress

__all__ = [
    "Action",
    "DeadFilter",
    "Deleted",
    "Edit",
    "EditStep",
    "Editor",
    "Entry",
    "Extent",
    "Inspector",
    "NotAvailable",
    "Page",
    "Progress",
    "QueueCounts",
    "SavedLetter",
    "State",
    "UnknownCursor",
    "Which",
    "WorkerInfo",
]

#: Number of messages that are read in one call.
_PER_PAGE = 500


class Inspector(DeadLetterInspector):
    """Inspects queues without losing or reordering messages; pauses, purges and replays."""

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

        Redis has a queue while it has a message, is paused or has a worker.

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

    def degraded(self) -> str | None:
        """Return which configured source of information fails, and which numbers are missing.

        None if no source fails.
        """
        return None

    def scheduled_in_all(self) -> int | None:
        """Number of scheduled messages of all queues together, if the broker cannot count the
        scheduled messages of each; otherwise None."""
        return None

    def browse_all(self, queue: str, state: State) -> Iterator[Entry]:
        """Yield every message in a state, read in pages.

        Raises:
            NotAvailable: this broker cannot list messages in this state.
        """
        cursor: str | None = None
        while True:
            page = self.browse(queue, state, limit=_PER_PAGE, cursor=cursor)
            yield from page.entries
            cursor = page.cursor
            if cursor is None:
                return

    def due_counts(self, queues: Sequence[str], *, within: timedelta) -> dict[str, tuple[int, int]]:
        """Count the scheduled messages of queues that are due, and that are due ``within`` a time.

        Returns:
            By queue: the number of due messages that no worker has made waiting yet, and the
            number of messages due within the time, the due messages included.

        Raises:
            NotAvailable: the broker does not tell when scheduled messages are due.
        """
        raise NotAvailable("counting due messages")

    def without_worker(self, found: Iterable[QueueCounts]) -> set[str]:
        """Names of the queues whose waiting messages no live worker consumes.

        A paused queue is none of them.

        Args:
            found: counts of the queues.

        Raises:
            NotAvailable: the broker does not tell which queues have workers.
        """
        stuck = {each.queue for each in found if each.waiting and not each.paused}
        return stuck - self.consumed(stuck) if stuck else stuck

    def consumed(self, queues: Collection[str]) -> set[str]:
        """Names of the queues that a live worker consumes, at least among ``queues``.

        Raises:
            NotAvailable: the broker does not tell which queues have workers.
        """
        timeout = self._broker.options.heartbeat_timeout.total_seconds()
        earliest = self._broker.clock.time() - timeout
        return {
            queue
            for worker in self.listed_workers()
            if worker.last_heartbeat is None or worker.last_heartbeat >= earliest
            for queue in worker.queues
        }

    def has_queue(self, name: str) -> bool:
        """Whether a queue is declared in this process or exists on the broker."""
        return name in self._broker.queues or name in self.queues()

    # -- looking -----------------------------------------------------------------------

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

    @abstractmethod
    def cancel(self, queue: str, id: str) -> bool:
        """Delete a waiting or scheduled message; False if there is none, or if it is in flight.

        Raises:
            NotAvailable
        """

    def edit_all(
        self, queue: str, state: State, edit: Editor, *, dry_run: bool = False
    ) -> Iterator[EditStep]:
        """Look at each message in a state, and replace or delete it as ``edit`` says.

        Works beside running workers: a message that has changed or was fetched since it was looked
        at is left as it is. A process that is killed leaves each message whole or edited; on
        RabbitMQ, it may leave some hundred messages twice.

        RabbitMQ has no scheduled messages to look at. Its waiting messages are all moved to the
        end of their queue, so they cannot only be looked at. Of its dead letters, a dry run looks
        at the oldest.

        Args:
            state: not in flight.
            dry_run: only look.

        Raises:
            NotAvailable: this broker cannot look at the messages in this state.
        """
        cursor: str | None = None
        pending: list[tuple[Entry, Edit]] = []
        while True:
            page = self.browse(queue, state, limit=_PER_PAGE, cursor=cursor)
            edits = [(entry, edit(entry)) for entry in page.entries]
            # The cursor names the last message of a page, so that it is deleted a page later.
            done = pending if dry_run else self._edit(queue, pending)
            yield EditStep.of(len(page.entries), done)
            pending = [each for each in edits if each[1] is not None]
            cursor = page.cursor
            if cursor is None:
                break
        yield EditStep.of(0, pending if dry_run else self._edit(queue, pending))

    def _edit(
        self, queue: str, edits: Sequence[tuple[Entry, Edit]]
    ) -> Sequence[tuple[Entry, Edit]]:
        """Make edits of messages that are unchanged and not in flight; return these."""
        raise NotAvailable("editing messages")

    def workers(self) -> list[WorkerInfo]:
        """List the worker processes with their reports; on Redis, the latest heartbeat first.

        Workers that the broker does not list, but that report, come last.

        Raises:
            NotAvailable: the broker does not list them, and there is no shared store.
        """
        reports = read_reports(self._broker)
        try:
            listed = self.listed_workers()
        except NotAvailable:
            if reports is None:
                raise
            listed = []
        return with_reports(listed, reports, self._broker.clock.time())

    @abstractmethod
    def listed_workers(self) -> list[WorkerInfo]:
        """List the worker processes that the broker knows, without their reports.

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
