"""The inspector of queues in Redis, which reads and changes them in bounded calls."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any

from ...state.redis.client import repeated
from ..contract import BrokerContract
from ..dead_places import place_of
from ..errors import BrokerRefused
from ..fields import for_replay, timestamp_in
from ..inspection import (
    Action,
    DeadFilter,
    Edit,
    Entry,
    Extent,
    Inspector,
    NotAvailable,
    Page,
    Progress,
    QueueCounts,
    SavedLetter,
    State,
    Which,
    WorkerInfo,
)
from ..steps import chunks
from .commands import QueueCommands
from .edits import cancel_message, make_edits
from .id_search import ids_with_prefix
from .keys import can_be_queue
from .pages import BODIES_PER_CALL, Pages, to_bytes, to_text
from .recent import recent_dead

#: Maximum number of dead letters that are read, replayed or deleted in one call.
_CHUNK = 500
#: Number of keys that Redis looks at in one step of a scan.
_SCANNED_PER_CALL = 5_000


class RedisInspector(Inspector):
    """Reads queues, workers and dead letters in Redis; each page is a consistent snapshot."""

    reads_newest_first = True
    # Of other names, the keys could be keys of another queue.
    _may_exist = staticmethod(can_be_queue)

    def __init__(self, broker: BrokerContract, commands: QueueCommands) -> None:
        super().__init__(broker)
        self._commands = commands
        self._pages = Pages(commands, broker.job_types)

    # -- queues --------------------------------------------------------------------------

    def other_queues(self) -> set[str]:
        keys = self._commands.keys
        self.check_listing()
        with self._commands.client_errors() as client:
            # In steps, unlike KEYS: other clients are served in between.
            scan = client.scan_iter(match=keys.queue_pattern(), count=_SCANNED_PER_CALL)
            found = {keys.queue_in(to_text(key)) for key in scan}
        names = {name for name in found if name is not None} | self._queues_of_workers()
        return names - self._broker.queues

    def _queues_of_workers(self) -> set[str]:
        workers = self.listed_workers()
        return {name for worker in workers for name in worker.queues if can_be_queue(name)}

    def check_listing(self) -> None:
        try:
            with self._commands.client_errors() as client:
                client.scan(count=1)
        except BrokerRefused as error:
            raise NotAvailable(f"listing queues without the right to SCAN ({error})") from None

    def has_queue(self, name: str) -> bool:
        if name in self._broker.queues:
            return True
        if not can_be_queue(name):
            return False
        with self._commands.client_errors() as client:  # faster than a scan
            has_keys = bool(client.exists(*self._commands.keys.marks(name)))
        return has_keys or name in self._queues_of_workers()

    # -- looking -------------------------------------------------------------------------

    def counts(self, queue: str) -> QueueCounts:
        return self.counts_of([queue])[0]

    def counts_of(self, queues: Sequence[str]) -> list[QueueCounts]:
        keys, script = self._commands.keys, self._commands.scripts["counts"]

        def ask(_is_repetition: bool) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for queue in queues:
                script(keys.of(queue), (), client=pipeline)
                for list_ in (keys.waiting(queue), *keys.priority_lists(queue)):
                    pipeline.lindex(list_, 0)
            return list(pipeline.execute())

        with self._commands.client_errors() as client:
            answers = iter(repeated(ask))
        # Each queue has the answer of the script, and the first id of its ten lists.
        counted = [(queue, next(answers), list(islice(answers, 10))) for queue in queues]
        ages = self._oldest_ages({queue: first for queue, _, first in counted})
        return [
            QueueCounts(queue, waiting, scheduled, in_flight, dead, bool(paused), ages.get(queue))
            for queue, (waiting, scheduled, in_flight, dead, paused), _ in counted
        ]

    def _oldest_ages(self, firsts: dict[str, list[bytes | None]]) -> dict[str, timedelta]:
        """Return the age of the oldest message of each queue, by the first ids of its lists."""
        keys = self._commands.keys
        asked = {queue: ids for queue, first in firsts.items() if (ids := [*filter(None, first)])}
        if not asked:
            return {}
        with self._commands.client_errors() as client:
            pipeline = client.pipeline(transaction=False)
            for queue, ids in asked.items():
                pipeline.hmget(keys.bodies(queue), ids)
            answers = pipeline.execute()
        ages = {}
        for queue, bodies in zip(asked, answers, strict=True):
            sent = [stamp for body in bodies if (stamp := timestamp_in(body)) is not None]
            if sent:
                ages[queue] = timedelta(milliseconds=max(0, self._commands.now() - min(sent)))
        return ages

    def due_counts(self, queues: Sequence[str], *, within: timedelta) -> dict[str, tuple[int, int]]:
        keys = self._commands.keys
        with self._commands.client_errors() as client:
            seconds, micros = client.time()  # due times are of the server's clock
            now = int(seconds) * 1000 + int(micros) // 1000
            pipeline = client.pipeline(transaction=False)
            for queue in queues:
                for until in (now, now + within // timedelta(milliseconds=1)):
                    pipeline.zcount(keys.scheduled(queue), "-inf", until)
            answers = pipeline.execute()
        return dict(zip(queues, zip(answers[::2], answers[1::2], strict=True), strict=True))

    def browse(
        self, queue: str, state: State, *, limit: int = 50, cursor: str | None = None
    ) -> Page:
        if state is State.DEAD:
            self._adopt_dead(queue)
        return self._pages.page(queue, state, limit, cursor)

    def find(self, id: str, queue: str | None = None) -> Entry | None:
        raw, keys = to_bytes(id), self._commands.keys
        for name in self._queues(queue):
            with self._commands.client_errors() as client:
                pipeline = client.pipeline(transaction=True)
                pipeline.hget(keys.bodies(name), raw)
                pipeline.hget(keys.scheduled_bodies(name), raw)
                pipeline.hget(keys.dead_bodies(name), raw)
                live, scheduled, dead = pipeline.execute()
            if live is not None:
                worker = self._worker_of(name, raw, self._pages.workers())
                if worker is None:
                    return self._pages.entry(name, State.WAITING, raw, live)
                shown = self._pages.names({worker})[worker] or worker
                return self._pages.entry(name, State.IN_FLIGHT, raw, live, worker=shown)
            if scheduled is not None:
                due = self._score(keys.scheduled(name), raw)
                return self._pages.entry(name, State.SCHEDULED, raw, scheduled, due=due)
            if dead is not None:
                self._adopt_dead(name)
                died = self._score(keys.dead(name), raw)
                return self._pages.entry(name, State.DEAD, raw, dead, died=died)
        return None

    def listed_workers(self) -> list[WorkerInfo]:
        keys, clock = self._commands.keys, self._commands.clock
        with self._commands.client_errors() as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.time()
            for registry in (keys.heartbeats(), keys.stock_heartbeats()):
                pipeline.zrevrange(registry, 0, -1, withscores=True)
            (seconds, micros), ours, others = pipeline.execute()
            for worker, _ in (*ours, *others):
                pipeline.smembers(keys.worker_queues(to_text(worker)))
            queues = pipeline.execute()
        heard = list(zip((*ours, *others), queues, strict=True))
        # Other processes with known queues are workers of an older version. The remaining ones
        # are processes of stock Dramatiq, which may be producers.
        heard = heard[: len(ours)] + [process for process in heard[len(ours) :] if process[1]]
        # Heartbeats are times of the server's clock.
        clock_offset = seconds + micros / 1e6 - clock.time()
        names = self._pages.names({to_text(worker) for (worker, _), _ in heard})
        found = [
            WorkerInfo(id, at / 1000 - clock_offset, tuple(sorted(map(to_text, its))), names[id])
            for id, at, its in ((to_text(worker), at, its) for (worker, at), its in heard)
        ]
        return sorted(found, key=lambda worker: -(worker.last_heartbeat or 0))

    def run_now(self, queue: str, id: str) -> bool:
        keys, now = self._commands.keys, self._commands.now()
        with self._commands.client_errors() as client:
            pipeline = client.pipeline(transaction=True)
            # Only a scheduled message, and only to an earlier time.
            pipeline.zadd(keys.scheduled(queue), {to_bytes(id): now}, xx=True, lt=True)
            pipeline.zscore(keys.scheduled(queue), to_bytes(id))
            pipeline.zadd(keys.wake(queue), {"w": 0})
            return pipeline.execute()[1] is not None

    def cancel(self, queue: str, id: str) -> bool:
        return cancel_message(self._commands, queue, id)

    def _edit(
        self, queue: str, edits: Sequence[tuple[Entry, Edit]]
    ) -> Sequence[tuple[Entry, Edit]]:
        return make_edits(self._commands, queue, edits)

    # -- pausing -------------------------------------------------------------------------

    def pause(self, queue: str) -> None:
        with self._commands.client_errors() as client:
            client.set(self._commands.keys.paused(queue), self._commands.now())

    def resume(self, queue: str) -> None:
        keys = self._commands.keys
        with self._commands.client_errors() as client:
            pipeline = client.pipeline(transaction=True)
            pipeline.delete(keys.paused(queue))
            pipeline.zadd(keys.wake(queue), {"w": 0})
            pipeline.execute()

    def is_paused(self, queue: str) -> bool:
        with self._commands.client_errors() as client:
            return bool(client.exists(self._commands.keys.paused(queue)))

    # -- dead letters --------------------------------------------------------------------

    def dead_letters(
        self, which: DeadFilter, *, limit: int | None = 100, extent: Extent | None = None
    ) -> Iterator[Entry]:
        is_everything = which == DeadFilter(which.queue)
        size = min(limit or _CHUNK, _CHUNK) if is_everything else _CHUNK
        pages = self._matching(which, size, extent or Extent())
        yield from islice((letter for page in pages for letter in page), limit)

    def recent_dead(
        self, which: DeadFilter, *, extent: Extent | None = None, cursor: str | None = None
    ) -> Iterator[Entry]:
        queues = self._queues(which.queue)
        for queue in queues:
            self._adopt_dead(queue)
        return recent_dead(self._pages, queues, which, extent or Extent(), place_of(cursor))

    def newest_dead(self, queue: str, *, limit: int = 10) -> list[Entry]:
        keys = self._commands.keys
        self._adopt_dead(queue)
        with self._commands.client_errors() as client:
            last = min(limit, BODIES_PER_CALL) - 1
            found = client.zrevrange(keys.dead(queue), 0, last, withscores=True) if limit else []
        bodies = self._pages.bodies(keys.dead_bodies(queue), [id for id, _ in found])
        died = [{"died": score / 1000} for _, score in found]
        return self._pages.entries(queue, State.DEAD, [id for id, _ in found], bodies, died)

    def dead_letter(self, queue: str, id: str) -> Entry | None:
        return next((letter for page in self._by_ids([id], queue) for letter in page), None)

    def dead_ids(
        self, prefix: str, queue: str | None = None, *, limit: int = 10
    ) -> list[tuple[str, str]]:
        queues, keys = self._queues(queue), self._commands.keys
        for name in queues:
            self._adopt_dead(name)
        hashes = [(name, keys.dead_bodies(name)) for name in queues]
        return ids_with_prefix(self._commands, prefix, hashes, limit, Extent())

    def ids(
        self,
        prefix: str,
        queue: str | None = None,
        *,
        limit: int = 10,
        extent: Extent | None = None,
    ) -> list[tuple[str, str]]:
        keys = self._commands.keys
        kinds = (keys.bodies, keys.scheduled_bodies, keys.dead_bodies)
        queues = self._queues(queue)
        hashes = [(name, kind(name)) for name in queues for kind in kinds]
        return ids_with_prefix(self._commands, prefix, hashes, limit, extent or Extent())

    def _change(
        self, action: Action, which: Which, queue: str | None, most: int | None
    ) -> Iterator[int]:
        change = self._replay if action == "replay" else self._delete
        if isinstance(which, DeadFilter):
            pages = self._matching(which, _CHUNK, Extent())
        else:
            pages = self._by_ids(which, queue)
        for page in pages:
            size = most or len(page) or 1
            for first in range(0, len(page), size):
                yield change(page[0].queue, page[first : first + size])
            if not page:
                yield 0  # so that a search without matches can be stopped

    def _count_ids(self, ids: Collection[str], queue: str | None) -> int:
        return sum(map(len, self._by_ids(ids, queue)))

    def _replay(self, queue: str, letters: list[Entry]) -> int:
        args: list[str | bytes | int] = []
        for letter in letters:
            body, priority = for_replay(letter)
            args += (to_bytes(letter.id), priority or "", body)
        return int(self._commands.run("replay", queue, args))

    def add_dead(
        self,
        queue: str,
        letters: Iterable[SavedLetter],
        *,
        progress: Progress = lambda _count: None,
    ) -> int:
        count = added = 0
        for chunk in chunks(letters, BODIES_PER_CALL):
            args: list[str | bytes | int] = [
                int(self._commands.dead_letter_retention / timedelta(milliseconds=1))
            ]
            for letter in chunk:
                died = "" if letter.died is None else repr(letter.died * 1000)
                body = letter.body_with_failure(self._broker.job_types)
                args += (to_bytes(letter.id), died, body)
            added += int(self._commands.run("add_dead", queue, args))
            count += len(chunk)
            progress(count)
        return added

    def _delete(self, queue: str, letters: list[Entry]) -> int:
        ids, keys = [to_bytes(letter.id) for letter in letters], self._commands.keys
        with self._commands.client_errors() as client:
            pipeline = client.pipeline(transaction=True)
            pipeline.zrem(keys.dead(queue), *ids)
            pipeline.hdel(keys.dead_bodies(queue), *ids)
            return int(pipeline.execute()[0])

    def _matching(self, which: DeadFilter, size: int, extent: Extent) -> Iterator[list[Entry]]:
        """Yield pages of the dead letters that match a filter and exist now."""
        with self._commands.client_errors() as client:
            seconds, micros = client.time()
        # A replayed message may be dead-lettered again during the call: it is not replayed twice.
        end = min(seconds + micros / 1e6, which.until or float("inf"))
        for queue in self._queues(which.queue):
            self._adopt_dead(queue)
            seen: tuple[str, str] | None = None
            while True:
                if not extent.left:
                    extent.is_complete = not self._has_more(queue, seen, which.since, end)
                    break
                limit = int(min(size, extent.left))
                letters, seen = self._pages.by_score(queue, State.DEAD, limit, seen, which.since)
                letters = [letter for letter in letters if (letter.died or 0) <= end]
                extent.looked_at += len(letters)
                yield [letter for letter in letters if which.matches(letter)]
                if seen is None or float(seen[0]) / 1000 > end:
                    break
            if not extent.is_complete:
                return

    def _has_more(
        self, queue: str, seen: tuple[str, str] | None, since: float | None, end: float
    ) -> bool:
        """Whether a queue has dead letters after ``seen`` that died by ``end`` (Unix seconds)."""
        letters, _ = self._pages.by_score(queue, State.DEAD, 1, seen, since)
        return any((letter.died or 0) <= end for letter in letters)

    def _by_ids(self, ids: Collection[str], queue: str | None) -> Iterator[list[Entry]]:
        """Yield pages of the dead letters with these ids."""
        unique = [to_bytes(id) for id in dict.fromkeys(ids)]
        for name in self._queues(queue):
            self._adopt_dead(name)
            for first in range(0, len(unique), BODIES_PER_CALL):
                chunk = unique[first : first + BODIES_PER_CALL]
                bodies = self._pages.bodies(self._commands.keys.dead_bodies(name), chunk)
                with self._commands.client_errors() as client:
                    scores = client.zmscore(self._commands.keys.dead(name), chunk)
                died = [{"died": None if score is None else score / 1000} for score in scores]
                yield self._pages.entries(name, State.DEAD, chunk, bodies, died)

    # -- internal --------------------------------------------------------------------------

    def _adopt_dead(self, queue: str) -> None:
        """Adopt the dead letters of stock workers and older versions.

        Scheduled messages are not adopted, since a stock worker may be about to fetch them.
        """
        while self._commands.run("adopt_dead", queue):
            pass

    def _score(self, key: str, id: bytes) -> float | None:
        with self._commands.client_errors() as client:
            score = client.zscore(key, id)
        return None if score is None else score / 1000

    def _worker_of(self, queue: str, id: bytes, workers: Collection[str]) -> str | None:
        """Return the worker for which a message is in flight."""
        with self._commands.client_errors() as client:
            pipeline = client.pipeline(transaction=False)
            for worker in workers:
                pipeline.sismember(self._commands.keys.in_flight(worker, queue), id)
            answers = pipeline.execute()
        return next((worker for worker, has in zip(workers, answers, strict=True) if has), None)
