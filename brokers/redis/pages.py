"""Pages of the messages in Redis, each read by one bounded call."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isfinite
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from ..attempt_history import failure_in
from ..envelope import decode_or_wrap
from ..filters import Place
from ..inspection import Entry, Page, State, UnknownCursor
from ..stock_failure import stock_failure
from .commands import MAX_ANSWER_BYTES, QueueCommands

#: Maximum number of bodies read by one call that cannot limit their bytes.
BODIES_PER_CALL = 50


class Pages:
    """Reads pages of the messages in each state; a page is a consistent snapshot."""

    def __init__(self, commands: QueueCommands, job_types: Mapping[str, str]) -> None:
        self._commands = commands
        self._job_types = job_types

    def page(self, queue: str, state: State, limit: int, cursor: str | None) -> Page:
        """Return one page, as :meth:`..inspection.Inspector.browse`."""
        seen = _parse_cursor(state, cursor)
        match state:
            case State.WAITING:
                entries, last = self._waiting(queue, limit, seen)
            case State.IN_FLIGHT:
                entries, last = self._in_flight(queue, limit, seen)
            case State.SCHEDULED | State.DEAD:
                entries, last = self.by_score(queue, state, limit, seen)
        return Page(entries, None if last is None else _format_cursor(state, last))

    def _waiting(self, queue: str, limit: int, seen: Any) -> tuple[list[Entry], Any]:
        list_, index, id = seen or (0, 0, "")
        ids, bodies, list_, index, more = self._commands.run(
            "page_waiting", queue, [limit, MAX_ANSWER_BYTES, list_, index, to_bytes(id)]
        )
        entries = self.entries(queue, State.WAITING, ids, bodies)
        return entries, (list_, index, to_text(ids[-1])) if more else None

    def by_score(
        self, queue: str, state: State, limit: int, seen: Any, since: float | None = None
    ) -> tuple[list[Entry], Any]:
        """Return a page of the scheduled messages or of the dead letters.

        Args:
            seen: score and id of the last message of the previous page.
            since: earliest due time or time of death, unix seconds.

        Returns:
            The page; and score and id of its last message, None on the last page.
        """
        score, id = seen or ("", "")
        lowest = "-inf" if since is None else str(since * 1000)
        ids, scores, bodies, more = self._commands.run(
            "page_sorted", queue, [state, limit, MAX_ANSWER_BYTES, lowest, score, to_bytes(id)]
        )
        name = "due" if state is State.SCHEDULED else "died"
        times = [{name: float(score) / 1000} for score in scores]
        entries = self.entries(queue, state, ids, bodies, times)
        return entries, (scores[-1].decode(), to_text(ids[-1])) if more else None

    def newest_dead(
        self, queue: str, limit: int, highest: str, id: bytes, since: float | None
    ) -> tuple[list[tuple[Place, bytes]], tuple[str, bytes] | None]:
        """Return a page of the bodies of dead letters, the newest first.

        Args:
            highest: highest score, as ``ZCOUNT`` takes it.
            id: goes on after the dead letter with this id and the highest score; empty for none.
            since: earliest time of death, unix seconds.

        Returns:
            The page; and ``highest`` and ``id`` of the next page, None on the last page.
        """
        lowest = "-inf" if since is None else repr(since * 1000)
        ids, scores, bodies, more = self._commands.run(
            "page_newest", queue, [limit, MAX_ANSWER_BYTES, lowest, highest, id]
        )
        found = [
            (Place(at, queue, id), body)
            for id, at, body in zip(ids, map(float, scores), bodies, strict=True)
            if body is not None
        ]
        return found, (scores[-1].decode(), ids[-1]) if more else None

    def _in_flight(self, queue: str, limit: int, seen: Any) -> tuple[list[Entry], Any]:
        """Return a page ordered by worker and id; a worker has at most some thousand messages."""
        last_worker, last_id = seen or ("", "")
        found: list[tuple[str, bytes]] = []
        keys = self._commands.keys
        with self._commands.client_errors() as client:
            for worker in self.workers():
                if worker < last_worker or len(found) > limit:
                    continue
                ids = sorted(client.smembers(keys.in_flight(worker, queue)))
                after = to_bytes(last_id) if worker == last_worker else b""
                found += ((worker, id) for id in ids if id > after)
            names = self.names({worker for worker, _ in found})
        page = found[:limit]
        entries: list[Entry] = []
        for first in range(0, len(page), BODIES_PER_CALL):
            chunk = page[first : first + BODIES_PER_CALL]
            ids = [id for _, id in chunk]
            workers = [{"worker": names[worker] or worker} for worker, _ in chunk]
            bodies = self.bodies(keys.bodies(queue), ids)
            entries += self.entries(queue, State.IN_FLIGHT, ids, bodies, workers)
        if len(found) <= limit:
            return entries, None
        return entries, (page[-1][0], to_text(page[-1][1]))

    def workers(self) -> list[str]:
        """Return the ids of our workers and of the processes of stock Dramatiq."""
        keys = self._commands.keys
        with self._commands.client_errors() as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.zrange(keys.heartbeats(), 0, -1)
            pipeline.zrange(keys.stock_heartbeats(), 0, -1)
            ours, others = pipeline.execute()
        return sorted({to_text(worker) for worker in (*ours, *others)})

    def bodies(self, key: str, ids: list[bytes]) -> list[bytes | None]:
        """Return at most :data:`BODIES_PER_CALL` bodies of one hash, None for a missing body."""
        with self._commands.client_errors() as client:
            return list(client.hmget(key, ids)) if ids else []

    def names(self, workers: Collection[str]) -> dict[str, str | None]:
        """Return ``host:pid`` by worker, None for a worker that stored no name."""
        ids = list(workers)
        with self._commands.client_errors() as client:
            keys = [self._commands.keys.worker_name(worker) for worker in ids]
            names = client.mget(keys) if keys else []
        return {
            worker: None if name is None else to_text(name)
            for worker, name in zip(ids, names, strict=True)
        }

    def entries(
        self,
        queue: str,
        state: State,
        ids: list[bytes],
        bodies: list[bytes | None],
        fields: list[dict[str, Any]] | None = None,
    ) -> list[Entry]:
        """Decode the messages that have a body; the others were settled in the meantime.

        Args:
            fields: further fields of each entry.
        """
        found = zip(ids, bodies, fields or [{}] * len(ids), strict=True)
        return [
            self.entry(queue, state, id, body, **more)
            for id, body, more in found
            if body is not None
        ]

    def entry(self, queue: str, state: State, id: bytes, body: bytes, **more: Any) -> Entry:
        """Decode a message; bytes that cannot be decoded are shown as a dead letter."""
        text = to_text(id)
        # The same id as in the consumer, which must be valid UTF-8 to be encoded.
        name = id.decode(errors="backslashreplace")
        message = decode_or_wrap(
            body,
            queue_name=queue,
            job_types=self._job_types,
            message_id=name,
            now=more.get("died") or self._commands.clock.time(),
        )
        failure = failure_in(message)
        if failure is None and state is State.DEAD:
            failure = stock_failure(message, more.get("died"))
        return Entry(queue, text, state, message, failure=failure, raw=body, **more)


def _format_cursor(state: State, last: tuple[Any, ...]) -> str:
    return ",".join([state[0], *(quote(to_bytes(str(part)), safe="") for part in last)])


def _parse_cursor(state: State, cursor: str | None) -> tuple[Any, ...] | None:
    """Return the position that a cursor contains; None for the first page.

    Raises:
        UnknownCursor: the cursor is malformed, or of another state.
    """
    if cursor is None:
        return None
    try:
        of_state, *position, id = cursor.split(",")
        last = to_text(unquote_to_bytes(id))
        match of_state, position:
            case "w", [list_, index] if state is State.WAITING:
                return int(list_), int(index), last
            case "i", [worker] if state is State.IN_FLIGHT:
                return to_text(unquote_to_bytes(worker)), last
            case (("s" | "d"), [score]) if state[0] == of_state and isfinite(float(score)):
                return score, last
    except ValueError:
        pass
    raise UnknownCursor


def to_text(id: bytes) -> str:
    """Return an id as text, without losing bytes that are not UTF-8."""
    return id.decode(errors="surrogateescape")


def to_bytes(id: str) -> bytes:
    """The inverse of :func:`to_text`."""
    return id.encode(errors="surrogateescape")
