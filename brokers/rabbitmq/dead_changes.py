"""Replays and deletes dead letters, in sessions that hide the other dead letters briefly.

The dead letters that do not match are held until the end of a session. If the first session is too
short to look at all, the later sessions move dead letters that do not match to the end of the
queue: they publish them again, with the remaining time to live, before they remove them. So no dead
letter is held for long, however long the queue is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta

import orjson

from ...core.failure import Failure
from ..entries import Entry
from ..fields import for_replay
from ..inspection import Action
from . import codec
from .client import FAILURE_HEADER, Publication, RabbitClient
from .dead_letters import DeadLetterReader
from .deaths import decoded

#: Number of dead letters that RabbitMQ sends ahead: they are hidden too.
_PREFETCH = 500
#: Seconds after which other processes may read in between.
_SESSION_SECONDS = 1.0


class DeadLetterChange:
    """Replays or deletes the dead letters of one queue that match.

    Args:
        matches: None: all dead letters match.
        most_per_step: maximum number in one step. Between two such steps no dead letter is held.
        most: maximum number in total.

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
    ) -> None:
        self._client = client
        self._queue = queue
        self._job_types = job_types
        self._change = self._replay if action == "replay" else self._delete
        self._matches = matches
        self._most_per_step = most_per_step
        self._most = most
        #: Number of dead letters, from the oldest, that are still to be looked at.
        self._left = math.inf
        #: Whether dead letters that do not match are moved to the end of the queue.
        self._moves = False
        #: Whether this session holds dead letters that do not match.
        self._holds = False

    def steps(self) -> Iterator[int]:
        """Change the dead letters step by step; yield the number of each step."""
        while self._left > 0 and self._most > 0:
            if self._most_per_step is None:
                yield from self._session()
            else:
                # Not inside the session, since the caller may wait after each step.
                yield sum(self._session())

    def _session(self) -> Iterator[int]:
        ends = time.monotonic() + _SESSION_SECONDS
        left_in_step = self._most_per_step or math.inf
        prefetch = int(min(_PREFETCH, left_in_step))
        self._holds = False
        with DeadLetterReader(self._client, self._queue, prefetch=prefetch) as reader:
            is_first = self._left == math.inf
            for contents in reader.fetch(self._left):
                if is_first:
                    self._left, is_first = reader.total, False
                found = self._step(reader, contents, int(min(left_in_step, self._most, 1e9)))
                self._most -= found
                left_in_step -= found
                yield found
                if not left_in_step or not self._most or time.monotonic() > ends:
                    return
                if reader.is_overdue:
                    self._moves = True
                    return
        # The reader came to the end.
        self._left = 0

    def _step(self, reader: DeadLetterReader, contents: list[codec.Content], most: int) -> int:
        """Change at most ``most`` of these dead letters; return their number."""
        now = self._client.clock.time()
        found: list[tuple[codec.Content, Entry]] = []
        others: list[tuple[codec.Content, Entry]] = []
        for content in contents:
            if len(found) == most:
                break  # RabbitMQ gets the others back
            entry = decoded(content, self._queue, self._job_types, now=now)
            is_match = self._matches is None or self._matches(entry)
            (found if is_match else others).append((content, entry))
        self._change([entry for _, entry in found])
        reader.remove([content for content, _ in found])
        self._left -= len(found)
        self._holds |= bool(others) and not self._moves
        if self._moves:
            self._move_to_end(others)
            reader.remove([content for content, _ in others])
            self._left -= len(others)
        if not self._holds:
            reader.has_nothing_held()
        return len(found)

    def _replay(self, letters: Sequence[Entry]) -> None:
        """Put dead letters back on the work queue, with no attempts.

        A crash before they are removed leaves them on both queues.
        """
        publications = []
        for entry in letters:
            body, priority = for_replay(entry.message)
            head = self._client.head(entry.id, priority)
            publications.append(Publication(self._queue, "", self._queue, head, body))
        if publications:
            self._client.publish(publications)

    def _delete(self, letters: Sequence[Entry]) -> None:
        pass  # removing them is all

    def _move_to_end(self, letters: Sequence[tuple[codec.Content, Entry]]) -> None:
        """Publish dead letters again, unchanged, at the end of their queue."""
        name = self._client.topology.dead_queue(self._queue)
        publications = [
            Publication(self._queue, "", name, self._head_again(content, entry), content.body)
            for content, entry in letters
        ]
        if publications:
            self._client.publish(publications)

    def _head_again(self, content: codec.Content, entry: Entry) -> bytes:
        properties = content.properties
        properties.delivery_mode = 2
        # RabbitMQ adds the number of redeliveries, which begins anew.
        headers = {**(properties.headers or {})}
        headers.pop("x-delivery-count", None)
        if "x-death" in headers and FAILURE_HEADER not in headers and entry.failure is not None:
            # RabbitMQ need not keep its own header in a message that a client publishes.
            headers[FAILURE_HEADER] = recorded(entry.failure)
        properties.headers = headers or None
        if (expiration := self._time_left(entry)) is not None:
            properties.expiration = str(expiration)
        return codec.encoded(properties)

    def _time_left(self, entry: Entry) -> int | None:
        """Milliseconds until a dead letter has been kept for long enough."""
        topology = self._client.topology
        if entry.died is None or topology.dead_queue(self._queue) in topology.adopted:
            return None
        age = timedelta(seconds=max(0.0, self._client.clock.time() - entry.died))
        return max(1_000, int((topology.retention - age) / timedelta(milliseconds=1)))


def recorded(failure: Failure) -> str:
    """Encode a failure for :data:`.client.FAILURE_HEADER`."""
    return orjson.dumps(failure.to_json()).decode()
