"""Replays and deletes dead letters, in sessions that hide the other dead letters briefly.

The dead letters that do not match are held until the end of the queue. If that takes longer than
:data:`HOLD_SECONDS`, they are moved to the end of the queue instead, and so are all that follow:
they are published again, with the remaining time to live (:mod:`.dead_moves`). After a whole turn
the queue has its order again. So no dead letter is held for long, however long the queue is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from ..entries import Entry, State
from ..fields import for_replay
from ..inspection import Action
from ..message_edits import Edit, Editor, EditStep
from . import codec
from .client import RabbitClient
from .dead_letters import DeadLetterReader
from .dead_lock import exclusive_access, lock_name, marker, remove_marker
from .dead_moves import Letter, LetterMover
from .deaths import decoded
from .publish_call import Publication

#: Number of dead letters that RabbitMQ sends ahead: they are hidden too.
_PREFETCH = 500
#: Seconds after which the letters that are held are moved, which takes as long again.
HOLD_SECONDS = 0.2
#: Seconds after which other processes may read in between.
_SESSION_SECONDS = 1.0


class DeadLetterChange:
    """Replays or deletes the dead letters of one queue that match.

    Args:
        matches: None: all dead letters match.
        most_per_step: maximum number in one step. Between two such steps no dead letter is held.
        most: maximum number in total.
        waiting: whether to change the waiting messages instead, beside the workers. All of them
            are moved to the end of the queue.

    Raises:
        as :class:`.dead_letters.DeadLetterReader`.
    """

    def __init__(
        self,
        client: RabbitClient,
        queue: str,
        job_types: Mapping[str, str],
        action: Action,
        matches: Callable[[Entry], bool] | None,
        *,
        most_per_step: int | None = None,
        most: float = math.inf,
        waiting: bool = False,
    ) -> None:
        self._client = client
        self._queue = queue
        self._job_types = job_types
        self._change = self._replay if action == "replay" else self._delete
        self._matches = matches
        self._most_per_step = most_per_step
        self._most = most
        self._waiting = waiting
        self._lock = lock_name(queue, waiting=waiting)
        self._mover = LetterMover(client, queue, waiting=waiting)
        #: Number of dead letters, from the oldest, that are still to be looked at.
        self._left = math.inf
        #: Whether dead letters that do not match are moved to the end of the queue.
        self._moves = waiting
        #: Whether it was checked that no killed process left letters twice, and whether one did.
        self._is_checked = self._is_unclean = False
        #: The dead letters that do not match and are held.
        self._held: list[Letter] = []

    def steps(self) -> Iterator[int]:
        """Change the dead letters step by step; yield the number of each step."""
        yield from self._turn()
        if self._is_unclean:
            yield from self._clean()
            yield from self._turn()

    def _clean(self) -> Iterator[int]:
        """Remove the letters that a killed process left twice."""
        client, queue = self._client, self._queue
        waiting = self._waiting
        turn = DeadLetterChange(
            client, queue, self._job_types, "delete", lambda _: False, waiting=waiting
        )
        turn._moves = True
        turn._mover = LetterMover(client, queue, recognises=True, waiting=waiting)
        yield from turn._turn(keeps_marker=True)
        with client.connection([queue]) as connection, exclusive_access(connection, self._lock):
            remove_marker(connection, self._lock)
        self._is_unclean = False

    def _turn(self, *, keeps_marker: bool = False) -> Iterator[int]:
        # Once letters are moved, the turn is completed, so that the queue has its order again.
        while self._left > 0 and (self._most > 0 or self._moves) and not self._is_unclean:
            if self._most_per_step is None:
                yield from self._session(keeps_marker=keeps_marker)
            else:
                # Not inside the session, since the caller may wait after each step.
                yield sum(self._session(keeps_marker=keeps_marker))

    def _session(self, *, keeps_marker: bool) -> Iterator[int]:
        left_in_step = min(self._most_per_step or math.inf, self._most)
        # If all match, no more are fetched than this session changes.
        limit = left_in_step if self._matches is None else math.inf
        prefetch = int(min(_PREFETCH, limit))
        self._held = []
        with DeadLetterReader(
            self._client, self._queue, prefetch=prefetch, waiting=self._waiting
        ) as reader:
            if not self._is_checked and not keeps_marker:
                self._is_checked = True
                if reader.control.find(marker(self._lock, passive=True)) is not None:
                    self._is_unclean = True
                    return
            is_first, is_stopped, seen = self._left == math.inf, False, 0
            ends = time.monotonic() + _SESSION_SECONDS
            try:
                for contents in reader.fetch(min(self._left, limit)):
                    if is_first:
                        self._left, is_first = reader.total, False
                    seen += len(contents)
                    found = self._step(reader, contents, left_in_step)
                    self._most -= found
                    left_in_step -= found
                    yield found
                    if not self._moves and self._held and reader.held_for > HOLD_SECONDS:
                        self._moves = True
                        self._move(reader, self._held)
                    is_done = not left_in_step and (bool(self._most) or not self._moves)
                    is_done |= self._left <= 0
                    if (is_done or time.monotonic() > ends) and not is_stopped:
                        reader.stop()
                        is_stopped = True
            finally:
                if not keeps_marker:
                    self._mover.unmark(reader.control)
        if not is_stopped and seen < limit:
            self._left = 0  # the reader came to the end

    def _step(
        self, reader: DeadLetterReader, contents: Sequence[codec.Content], most: float
    ) -> int:
        """Change at most ``most`` of these dead letters; return their number."""
        now = self._client.clock.time()
        found, others, twice = list[Letter](), list[Letter](), list[Letter]()
        here = set[bytes]()
        for content in contents:
            if self._moves and self._mover.is_moved(content):
                self._left = 0  # some have expired meanwhile: the turn is complete
                break
            letter = content, self._decoded(content, now)
            if self._mover.is_met(letter, here):
                twice.append(letter)
            elif self._matches is not None and not self._matches(letter[1]):
                others.append(letter)
            elif len(found) < most:
                found.append(letter)
            # RabbitMQ gets the others back.
        self._change(found)
        reader.remove([content for content, _ in (*found, *twice)])
        self._left -= len(found) + len(twice)
        if self._moves:
            self._move(reader, others)
        else:
            self._held += others
        return len(found)

    def _decoded(self, content: codec.Content, now: float) -> Entry:
        entry = decoded(content, self._queue, self._job_types, now=now)
        if self._waiting:
            # Its headers may name delay queues: that is no failure.
            return replace(entry, state=State.WAITING, failure=None, died=None)
        return entry

    def _move(self, reader: DeadLetterReader, letters: Sequence[Letter]) -> None:
        self._mover.move(reader, letters)
        self._left -= len(letters)

    def _replay(self, letters: Sequence[Letter]) -> None:
        """Put dead letters back on the work queue, with no attempts.

        A crash before they are removed leaves them on both queues.
        """
        publications = []
        for _, entry in letters:
            body, priority = for_replay(entry)
            head = self._client.head(entry.id, priority)
            publications.append(Publication(self._queue, "", self._queue, head, body))
        if publications:
            self._client.publish(publications)

    def _delete(self, letters: Sequence[Letter]) -> None:
        pass  # removing them is all


class LetterEdits(DeadLetterChange):
    """Deletes or replaces the dead letters of one queue, or its waiting messages.

    A process that is killed may leave a letter both as it was and replaced.

    Args:
        edit: says what becomes of a message.
    """

    def __init__(
        self,
        client: RabbitClient,
        queue: str,
        job_types: Mapping[str, str],
        edit: Editor,
        *,
        waiting: bool,
    ) -> None:
        super().__init__(client, queue, job_types, "delete", self._is_edited, waiting=waiting)
        self._change = self._replace
        self._edit = edit
        self._looked_at = 0
        self._edits: list[tuple[Entry, Edit]] = []
        self._made: list[tuple[Entry, Edit]] = []

    def edit_steps(self) -> Iterator[EditStep]:
        """Edit the messages step by step."""
        for _ in self.steps():
            step = EditStep.of(self._looked_at, self._made)
            self._looked_at, self._made = 0, []
            yield step

    def _is_edited(self, entry: Entry) -> bool:
        self._looked_at += 1
        edit = self._edit(entry)
        if edit is not None:
            self._edits.append((entry, edit))
        return edit is not None

    def _replace(self, letters: Sequence[Letter]) -> None:
        edits, self._edits = self._edits, []
        new = [
            (content, entry, edit)
            for (content, entry), (_, edit) in zip(letters, edits, strict=True)
            if isinstance(edit, bytes)
        ]
        if new:
            self._mover.publish(new)
        self._made += edits
