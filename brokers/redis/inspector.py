"""Looks at the queues in Redis, and at the dead letters' fate, some at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from datetime import timedelta
from itertools import islice

import orjson

from ..contract import BrokerContract
from ..envelope import revive
from ..inspection import DeadFilter, Entry, Page, QueueCounts, State, Which, WorkerInfo
from ..inspector import Inspector, Progress, silent
from .commands import QueueCommands
from .pages import FEW, Pages, to_bytes, to_text

#: How many dead letters are looked at, put back or deleted in one call; the bytes are bounded too.
_CHUNK = 500


class RedisInspector(Inspector):
    """See the module; what it says is as of one moment for each page."""

    def __init__(self, broker: BrokerContract, commands: QueueCommands) -> None:
        super().__init__(broker)
        self._commands = commands
        self._pages = Pages(commands, broker.job_types)

    # -- looking -------------------------------------------------------------------------

    def counts(self, queue: str) -> QueueCounts:
        waiting, scheduled, in_flight, dead, paused, _ = self._commands.run("counts", queue)
        age = self._oldest_age(queue) if waiting else None
        return QueueCounts(queue, waiting, scheduled, in_flight, dead, bool(paused), age)

    def _oldest_age(self, queue: str) -> timedelta | None:
        keys = self._commands.keys
        with self._commands.talk() as client:
            pipeline = client.pipeline(transaction=False)
            for list_ in (keys.waiting(queue), *keys.levels_waiting(queue)):
                pipeline.lindex(list_, 0)
            first = [id for id in pipeline.execute() if id is not None]
            bodies = client.hmget(keys.bodies(queue), first) if first else []
        sent = [stamp for body in bodies if (stamp := _timestamp(body)) is not None]
        if not sent:
            return None
        return timedelta(milliseconds=max(0, self._commands.now() - min(sent)))

    def browse(
        self, queue: str, state: State, *, limit: int = 50, cursor: str | None = None
    ) -> Page:
        if state is State.DEAD:
            self._adopt_dead(queue)
        return self._pages.of(queue, state, limit, cursor)

    def find(self, id: str, queue: str | None = None) -> Entry | None:
        raw, keys = to_bytes(id), self._commands.keys
        for name in self._queues(queue):
            with self._commands.talk() as client:
                pipeline = client.pipeline(transaction=True)
                pipeline.hget(keys.bodies(name), raw)
                pipeline.hget(keys.scheduled_bodies(name), raw)
                pipeline.hget(keys.dead_bodies(name), raw)
                current, later, dead = pipeline.execute()
            if current is not None:
                worker = self._holder(name, raw, self._pages.workers())
                if worker is None:
                    return self._pages.entry(name, State.WAITING, raw, current)
                known = self._pages.names({worker})[worker] or worker
                return self._pages.entry(name, State.IN_FLIGHT, raw, current, worker=known)
            if later is not None:
                due = self._score(keys.scheduled(name), raw)
                return self._pages.entry(name, State.SCHEDULED, raw, later, due=due)
            if dead is not None:
                self._adopt_dead(name)
                died = self._score(keys.dead(name), raw)
                return self._pages.entry(name, State.DEAD, raw, dead, died=died)
        return None

    def workers(self) -> list[WorkerInfo]:
        keys, clock = self._commands.keys, self._commands.clock
        with self._commands.talk() as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.time()
            for registry in (keys.heartbeats(), keys.stock_heartbeats()):
                pipeline.zrevrange(registry, 0, -1, withscores=True)
            (seconds, micros), ours, others = pipeline.execute()
            for worker, _ in (*ours, *others):
                pipeline.smembers(keys.worker_queues(to_text(worker)))
            queues = pipeline.execute()
        heard = list(zip((*ours, *others), queues, strict=True))
        # Of the others only a worker of an older version says what it consumes; the rest are
        # processes of stock Dramatiq, which may be producers.
        heard = heard[: len(ours)] + [one for one in heard[len(ours) :] if one[1]]
        # Heartbeats are by the server's clock.
        ahead = seconds + micros / 1e6 - clock.time()
        names = self._pages.names({to_text(worker) for (worker, _), _ in heard})
        found = [
            WorkerInfo(id, at / 1000 - ahead, tuple(sorted(map(to_text, its))), names[id])
            for id, at, its in ((to_text(worker), at, its) for (worker, at), its in heard)
        ]
        return sorted(found, key=lambda one: -(one.last_heartbeat or 0))

    def run_now(self, queue: str, id: str) -> bool:
        keys, now = self._commands.keys, self._commands.now()
        with self._commands.talk() as client:
            pipeline = client.pipeline(transaction=True)
            # Only what is there, and nothing later than it was.
            pipeline.zadd(keys.scheduled(queue), {to_bytes(id): now}, xx=True, lt=True)
            pipeline.zscore(keys.scheduled(queue), to_bytes(id))
            pipeline.zadd(keys.wake(queue), {"w": 0})
            return pipeline.execute()[1] is not None

    # -- pausing -------------------------------------------------------------------------

    def pause(self, queue: str) -> None:
        self._commands.pause(queue)

    def resume(self, queue: str) -> None:
        self._commands.resume(queue)

    def is_paused(self, queue: str) -> bool:
        with self._commands.talk() as client:
            return bool(client.exists(self._commands.keys.paused(queue)))

    # -- dead letters --------------------------------------------------------------------

    def dead_letters(self, which: DeadFilter, *, limit: int = 100) -> Iterator[Entry]:
        pages = self._matching(which, min(limit, _CHUNK))
        yield from islice((letter for page in pages for letter in page), limit)

    def newest_dead(self, queue: str, *, limit: int = 10) -> list[Entry]:
        keys = self._commands.keys
        self._adopt_dead(queue)
        with self._commands.talk() as client:
            last = min(limit, FEW) - 1
            found = client.zrevrange(keys.dead(queue), 0, last, withscores=True) if limit else []
        bodies = self._pages.bodies(keys.dead_bodies(queue), [id for id, _ in found])
        died = [{"died": score / 1000} for _, score in found]
        return self._pages.entries(queue, State.DEAD, [id for id, _ in found], bodies, died)

    def dead_letter(self, queue: str, id: str) -> Entry | None:
        return next((letter for page in self._named([id], queue) for letter in page), None)

    def dead_ids(
        self, prefix: str, queue: str | None = None, *, limit: int = 10
    ) -> list[tuple[str, str]]:
        raw, keys = to_bytes(prefix), self._commands.keys
        pattern = b"".join(b"\\" + raw[i : i + 1] for i in range(len(raw))) + b"*"
        found: list[tuple[str, str]] = []
        for name in self._queues(queue):
            self._adopt_dead(name)
            with self._commands.talk() as client:
                if client.hexists(keys.dead_bodies(name), raw):
                    return [(name, prefix)]
                ids = client.zscan_iter(keys.dead(name), match=pattern, count=1000)
                for id in islice((id for id, _ in ids), limit - len(found)):
                    found.append((name, to_text(id)))  # noqa: PERF401 - it is still one list
        return found

    def replay(
        self,
        which: Which,
        *,
        queue: str | None = None,
        dry_run: bool = False,
        progress: Progress = silent,
    ) -> int:
        return self._act(which, queue, dry_run, self._put_back, progress)

    def delete_dead(
        self,
        which: Which,
        *,
        queue: str | None = None,
        dry_run: bool = False,
        progress: Progress = silent,
    ) -> int:
        return self._act(which, queue, dry_run, self._delete, progress)

    def _act(
        self,
        which: Which,
        queue: str | None,
        dry_run: bool,
        action: Callable[[str, list[Entry]], int],
        progress: Progress,
    ) -> int:
        if isinstance(which, DeadFilter):
            pages = self._matching(which, _CHUNK)
        else:
            pages = self._named(which, queue)
        count = 0
        for page in filter(None, pages):
            count += len(page) if dry_run else action(page[0].queue, page)
            progress(count)
        return count

    def _put_back(self, queue: str, letters: list[Entry]) -> int:
        args: list[str | bytes | int] = []
        for letter in letters:
            level = letter.message.options.get("broker_priority")
            given = level if isinstance(level, int) and 0 < level <= 9 else ""
            args += (to_bytes(letter.id), given, revive(letter.message))
        return int(self._commands.run("replay", queue, args))

    def _delete(self, queue: str, letters: list[Entry]) -> int:
        ids, keys = [to_bytes(letter.id) for letter in letters], self._commands.keys
        with self._commands.talk() as client:
            pipeline = client.pipeline(transaction=True)
            pipeline.zrem(keys.dead(queue), *ids)
            pipeline.hdel(keys.dead_bodies(queue), *ids)
            return int(pipeline.execute()[0])

    def _matching(self, which: DeadFilter, size: int) -> Iterator[list[Entry]]:
        """The dead letters that a filter means, a page at a time, up to those of this moment."""
        with self._commands.talk() as client:
            seconds, micros = client.time()
        # What is replayed may die again while we are still at it.
        end = min(seconds + micros / 1e6, which.until or float("inf"))
        for queue in self._queues(which.queue):
            self._adopt_dead(queue)
            seen: tuple[str, str] | None = None
            while True:
                letters, seen = self._pages.by_score(queue, State.DEAD, size, seen, which.since)
                yield [x for x in letters if (x.died or 0) <= end and which.matches(x)]
                if seen is None or float(seen[0]) / 1000 > end:
                    break

    def _named(self, ids: Collection[str], queue: str | None) -> Iterator[list[Entry]]:
        every = [to_bytes(id) for id in dict.fromkeys(ids)]
        for name in self._queues(queue):
            self._adopt_dead(name)
            for first in range(0, len(every), FEW):
                some = every[first : first + FEW]
                bodies = self._pages.bodies(self._commands.keys.dead_bodies(name), some)
                with self._commands.talk() as client:
                    scores = client.zmscore(self._commands.keys.dead(name), some)
                of_each = [{"died": None if one is None else one / 1000} for one in scores]
                yield self._pages.entries(name, State.DEAD, some, bodies, of_each)

    # -- pieces ----------------------------------------------------------------------------

    def _adopt_dead(self, queue: str) -> None:
        """Take over the dead letters of stock workers and older versions.

        Scheduled messages stay: a stock worker may be about to fetch them.
        """
        while self._commands.run("adopt_dead", queue):
            pass

    def _score(self, key: str, id: bytes) -> float | None:
        with self._commands.talk() as client:
            score = client.zscore(key, id)
        return None if score is None else score / 1000

    def _holder(self, queue: str, id: bytes, workers: Collection[str]) -> str | None:
        with self._commands.talk() as client:
            pipeline = client.pipeline(transaction=False)
            for worker in workers:
                pipeline.sismember(self._commands.keys.in_flight(worker, queue), id)
            held = pipeline.execute()
        return next((worker for worker, has in zip(workers, held, strict=True) if has), None)


def _timestamp(body: bytes | None) -> int | None:
    try:
        stamp = orjson.loads(body or b"")["message_timestamp"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None  # a plain job, or nothing that can be read
    return stamp if isinstance(stamp, int) else None
