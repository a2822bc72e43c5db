"""Pages of what stands in Redis: from a cursor on, in a bounded answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isfinite
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from ..envelope import decode_or_quarantine
from ..inspection import Entry, Page, State, UnknownCursor, failure_in
from .commands import QueueCommands

#: How many bodies are asked for by their ids, whose size is not known before.
FEW = 50
#: One answer of the server: more would hold its other clients up.
_ANSWER_BYTES = 4 * 1024 * 1024


class Pages:
    """What stands in each state; a page is as of one moment."""

    def __init__(self, commands: QueueCommands, job_types: Mapping[str, str]) -> None:
        self._commands = commands
        self._job_types = job_types

    def of(self, queue: str, state: State, limit: int, cursor: str | None) -> Page:
        """See :meth:`..inspector.Inspector.browse`."""
        seen = _seen(state, cursor)
        match state:
            case State.WAITING:
                entries, last = self._waiting(queue, limit, seen)
            case State.IN_FLIGHT:
                entries, last = self._in_flight(queue, limit, seen)
            case State.SCHEDULED | State.DEAD:
                entries, last = self.by_score(queue, state, limit, seen)
        return Page(entries, None if last is None else _cursor(state, last))

    def _waiting(self, queue: str, limit: int, seen: Any) -> tuple[list[Entry], Any]:
        list_, place, id = seen or (0, 0, "")
        ids, bodies, list_, place, more = self._commands.run(
            "page_waiting", queue, [limit, _ANSWER_BYTES, list_, place, to_bytes(id)]
        )
        entries = self.entries(queue, State.WAITING, ids, bodies)
        return entries, (list_, place, to_text(ids[-1])) if more else None

    def by_score(
        self, queue: str, state: State, limit: int, seen: Any, since: float | None = None
    ) -> tuple[list[Entry], Any]:
        """Some of the scheduled or the dead, and the last one seen if there are more.

        Args:
            seen: score and id of the last one seen.
            since: unix seconds; nothing before.
        """
        score, id = seen or ("", "")
        least = "-inf" if since is None else str(since * 1000)
        ids, scores, bodies, more = self._commands.run(
            "page_sorted", queue, [state, limit, _ANSWER_BYTES, least, score, to_bytes(id)]
        )
        name = "due" if state is State.SCHEDULED else "died"
        of_each = [{name: float(score) / 1000} for score in scores]
        entries = self.entries(queue, state, ids, bodies, of_each)
        return entries, (scores[-1].decode(), to_text(ids[-1])) if more else None

    def _in_flight(self, queue: str, limit: int, seen: Any) -> tuple[list[Entry], Any]:
        """By worker, and by id of each; a worker holds no more than some thousands."""
        last_worker, last_id = seen or ("", "")
        held: list[tuple[str, bytes]] = []
        keys = self._commands.keys
        with self._commands.talk() as client:
            for worker in self.workers():
                if worker < last_worker or len(held) > limit:
                    continue
                ids = sorted(client.smembers(keys.in_flight(worker, queue)))
                after = to_bytes(last_id) if worker == last_worker else b""
                held += ((worker, id) for id in ids if id > after)
            names = self.names({worker for worker, _ in held})
        page = held[:limit]
        entries: list[Entry] = []
        for first in range(0, len(page), FEW):
            some = page[first : first + FEW]
            ids = [id for _, id in some]
            of_each = [{"worker": names[worker] or worker} for worker, _ in some]
            bodies = self.bodies(keys.bodies(queue), ids)
            entries += self.entries(queue, State.IN_FLIGHT, ids, bodies, of_each)
        if len(held) <= limit:
            return entries, None
        return entries, (page[-1][0], to_text(page[-1][1]))

    def workers(self) -> list[str]:
        """The ids of all that may hold messages: our workers and processes of stock Dramatiq."""
        keys = self._commands.keys
        with self._commands.talk() as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.zrange(keys.heartbeats(), 0, -1)
            pipeline.zrange(keys.stock_heartbeats(), 0, -1)
            ours, others = pipeline.execute()
        return sorted({to_text(worker) for worker in (*ours, *others)})

    def bodies(self, key: str, ids: list[bytes]) -> list[bytes | None]:
        """Of a few messages (:data:`FEW`) in one hash."""
        with self._commands.talk() as client:
            return list(client.hmget(key, ids)) if ids else []

    def names(self, workers: Collection[str]) -> dict[str, str | None]:
        """``host:pid`` of workers, where they have said it."""
        every = list(workers)
        with self._commands.talk() as client:
            keys = [self._commands.keys.worker_name(worker) for worker in every]
            names = client.mget(keys) if keys else []
        return {
            worker: None if name is None else to_text(name)
            for worker, name in zip(every, names, strict=True)
        }

    def entries(
        self,
        queue: str,
        state: State,
        ids: list[bytes],
        bodies: list[bytes | None],
        of_each: list[dict[str, Any]] | None = None,
    ) -> list[Entry]:
        """Those that have a body; the others were settled while they were looked for."""
        found = zip(ids, bodies, of_each or [{}] * len(ids), strict=True)
        return [
            self.entry(queue, state, id, body, **more)
            for id, body, more in found
            if body is not None
        ]

    def entry(self, queue: str, state: State, id: bytes, body: bytes, **more: Any) -> Entry:
        """A message; one that cannot be decoded is shown as such."""
        text = to_text(id)
        # As the consumer names it: a message that is written again holds UTF-8 alone.
        name = id.decode(errors="backslashreplace")
        message = decode_or_quarantine(
            body,
            queue_name=queue,
            job_types=self._job_types,
            message_id=name,
            now=more.get("died") or self._commands.clock.time(),
        )
        return Entry(queue, text, state, message, failure=failure_in(message), **more)


def _cursor(state: State, last: tuple[Any, ...]) -> str:
    return ",".join([state[0], *(quote(to_bytes(str(one)), safe="") for one in last)])


def _seen(state: State, cursor: str | None) -> tuple[Any, ...] | None:
    """The last one seen, as :func:`_cursor` was given it."""
    if cursor is None:
        return None
    try:
        of_state, *place, id = cursor.split(",")
        last = to_text(unquote_to_bytes(id))
        match of_state, place:
            case "w", [list_, at] if state is State.WAITING:
                return int(list_), int(at), last
            case "i", [worker] if state is State.IN_FLIGHT:
                return to_text(unquote_to_bytes(worker)), last
            case (("s" | "d"), [score]) if state[0] == of_state and isfinite(float(score)):
                return score, last
    except ValueError:
        pass
    raise UnknownCursor


# Ids of other producers may be any bytes; as text they keep what is not UTF-8.
def to_text(id: bytes) -> str:
    """An id, or a name of ours, as text."""
    return id.decode(errors="surrogateescape")


def to_bytes(id: str) -> bytes:
    """The inverse of :func:`to_text`."""
    return id.encode(errors="surrogateescape")
