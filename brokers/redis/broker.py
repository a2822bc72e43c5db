"""The broker on Redis: every step that must not be torn is one Lua script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from importlib import resources
from typing import Any
from uuid import uuid4

from ...core.clock import SYSTEM_CLOCK, Clock, to_millis
from ...core.failure import Failure, Reason
from ..base import BrokerOptions, Envelope, RelayBroker
from ..coalescing import CoalescingConsumer
from ..consumer import RelayConsumer
from ..envelope import Undecodable, decode, quarantine, revive
from ..errors import BrokerRefused
from ..inspection import DeadLetter, QueueCounts
from ..settlement import Settlement, Write
from .connection import address, connect, translated
from .consumer import Ledger, RedisConsumer
from .keys import Keys

#: LPOP with a count and BZPOPMIN with a fraction of a second came with it.
OLDEST_REDIS = (6, 2)

#: One answer of the server: more would hold its other clients up.
_ANSWER_BYTES = 4 * 1024 * 1024


class RedisBroker(RelayBroker):
    """Queues in a Redis (or Valkey) server.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        namespace: the prefix of every key; stock Dramatiq's is ``dramatiq``.
    """

    def __init__(
        self,
        url: str,
        *,
        options: BrokerOptions | None = None,
        namespace: str = "dramatiq",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(options or BrokerOptions(), clock=clock)
        self.worker_id = str(uuid4())
        self._ledgers: dict[str, Ledger] = {}
        self.keys = Keys(namespace)
        self.client = connect(url, timeout=self.options.connect_timeout)
        self._where = address(url)
        here = resources.files(__package__)
        common = here.joinpath("common.lua").read_text()
        self._scripts = {
            name: self.client.register_script(common + here.joinpath(f"{name}.lua").read_text())
            for name in ("counts", "enqueue", "exchange", "flush", "leave", "recover", "replay")
        }

    # -- the way in ------------------------------------------------------------------

    def _put(self, envelopes: Sequence[Envelope]) -> None:
        by_queue: dict[str, list[str | bytes | int]] = {}
        for envelope in envelopes:
            due = "" if envelope.due is None else envelope.due
            level = "" if envelope.priority is None else envelope.priority
            args = by_queue.setdefault(envelope.message.queue_name, [self._now()])
            args += (envelope.message.message_id, due, level, envelope.body)
        for queue, args in by_queue.items():
            self._run("enqueue", queue, args)

    def _run(
        self, script: str, queue: str, args: Sequence[str | bytes | int] = (), *keys: str
    ) -> Any:
        """Run a script on a queue; its keys stand behind those of the queue."""
        with translated(self._where):
            return self._scripts[script](keys=[*self.keys.of(queue), *keys], args=args)

    def _worker_keys(self, queue: str) -> tuple[str, str]:
        keys = self.keys
        return keys.in_flight(self.worker_id, queue), keys.worker_queues(self.worker_id)

    # -- the way out -------------------------------------------------------------------

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> RelayConsumer:
        """A consumer of a queue; coalescing, where a batch actor is declared on it."""
        batching = self.batching(queue_name)
        if batching:
            # One batch at work and one being collected.
            prefetch = max(prefetch, 2 * max(size for size, _ in batching.values()))
        limit = (self.options.concurrency or {}).get(queue_name)
        if limit is not None and not batching:
            prefetch = min(prefetch, limit)
        consumer = RedisConsumer(
            self,
            queue_name,
            prefetch=prefetch,
            timeout_ms=timeout,
            fixed_prefetch=limit is not None or bool(batching),
            coalesces=bool(batching),
        )
        return CoalescingConsumer(consumer, batching) if batching else consumer

    def ledger(self, queue: str) -> Ledger:
        """What this process holds of a queue."""
        return self._ledgers.setdefault(queue, Ledger())

    def exchange(
        self, queue: str, room: int, settlement: Settlement, put_back: Sequence[bytes]
    ) -> tuple[int, list[tuple[bytes, bytes | None, int]]]:
        """One round trip: carry out, hand back, fetch. See ``exchange.lua``.

        Returns:
            Milliseconds until the next scheduled message is due (-1: there is
            none), and of each message fetched its id, its body (None: it is
            gone) and how many workers it may have killed.
        """
        args: list[str | bytes | int] = [self._now(), self.worker_id, queue, room, _ANSWER_BYTES]
        args.append(len(settlement.schedule))
        for write in settlement.schedule:
            args += (*_kind(write), write.due, write.body)
        args.append(len(settlement.bury))
        for write in settlement.bury:
            args += (*_kind(write), write.body)
        args += [len(settlement.remove), *settlement.remove, len(put_back), *put_back]
        wait, ids, bodies, counts = self._run("exchange", queue, args, *self._worker_keys(queue))
        suspected = [int(count or 0) for count in counts] or [0] * len(ids)
        return wait, list(zip(ids, bodies, suspected, strict=True))

    def wait_for_work(self, queue: str, seconds: float) -> None:
        """Sleep until something is enqueued or due sooner than was known, at most ``seconds``."""
        with translated(self._where):
            # Zero would be for ever.
            self.client.bzpopmin(self.keys.wake(queue), timeout=max(seconds, 0.001))

    def count_trial(self, queue: str, id: bytes) -> None:
        """Count that a worker is about to run a suspected message."""
        with translated(self._where):
            self.client.hincrby(self.keys.suspects(queue), id, 1)

    def in_flight(self, queue: str) -> set[bytes]:
        """The ids that Redis has in flight for this worker."""
        with translated(self._where):
            return set(self.client.smembers(self.keys.in_flight(self.worker_id, queue)))

    def recover(self, queue: str) -> int:
        """Take over the messages of dead workers, drop old dead letters; returns how many came."""
        args: list[str | bytes | int] = [
            _millis(self.options.heartbeat_timeout),
            _millis(self.options.dead_letter_retention),
            self.keys.namespace,
            queue,
            self.worker_id,
        ]
        return int(self._run("recover", queue, args))

    def leave(self, queue: str) -> None:
        """Say that this worker no longer consumes a queue."""
        self._run("leave", queue, [self.worker_id, queue], *self._worker_keys(queue))

    # -- operations ----------------------------------------------------------------------

    def ping(self) -> None:
        with translated(self._where):
            version = str(self.client.info("server")["redis_version"])
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
            raise BrokerRefused(
                f"expected Redis 6.2 or newer at {self._where}, got {version}: upgrade the server"
            )

    def flush(self, queue_name: str) -> None:
        """Drop the waiting and scheduled messages of a queue; never the dead ones."""
        self._run("flush", queue_name)

    def pause(self, queue: str) -> None:
        """Let no worker take messages of a queue; what is begun is finished."""
        with translated(self._where):
            self.client.set(self.keys.paused(queue), self._now())

    def resume(self, queue: str) -> None:
        """The opposite of :meth:`pause`."""
        with translated(self._where):
            pipeline = self.client.pipeline(transaction=True)
            pipeline.delete(self.keys.paused(queue))
            pipeline.zadd(self.keys.wake(queue), {"w": 0})
            pipeline.execute()

    def counts(self, queue: str) -> QueueCounts:
        waiting, scheduled, in_flight, dead, _paused, _oldest = self._run("counts", queue)
        return QueueCounts(queue, waiting, scheduled, in_flight, dead)

    def dead_letters(self, queue: str, *, limit: int = 100) -> Iterator[DeadLetter]:
        keys = self.keys
        for first in range(0, limit, 100):
            with translated(self._where):
                last = min(first + 100, limit) - 1
                ids = self.client.zrange(keys.dead(queue), first, last)
                bodies = self.client.hmget(keys.dead_bodies(queue), ids) if ids else []
            if not ids:
                return
            for id, body in zip(ids, bodies, strict=True):
                if body is not None:
                    yield self._dead_letter(queue, _text(id), body)

    def _dead_letter(self, queue: str, id: str, body: bytes) -> DeadLetter:
        try:
            message = decode(body, queue_name=queue, job_types=self.job_types)
        except Undecodable as error:  # buried by something else than us
            failure = Failure.of(error, reason=Reason.UNDECODABLE, attempt=0, now=self.clock.time())
            message = quarantine(body, queue_name=queue, message_id=id, failure=failure)
        return DeadLetter.of(queue, id, message)

    def replay(self, queue: str, id: str) -> bool:
        keys = self.keys
        with translated(self._where):
            body = self.client.hget(keys.dead_bodies(queue), _bytes(id))
            if body is None:
                return False
        message = self._dead_letter(queue, id, body).message
        return bool(self._run("replay", queue, [_bytes(id), revive(message)]))

    def delete_dead(self, queue: str, id: str) -> bool:
        keys = self.keys
        with translated(self._where):
            pipeline = self.client.pipeline(transaction=True)
            pipeline.zrem(keys.dead(queue), _bytes(id))
            pipeline.hdel(keys.dead_bodies(queue), _bytes(id))
            return bool(pipeline.execute()[0])

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _now(self) -> int:
        return to_millis(self.clock.time())


def _kind(write: Write) -> tuple[str, str | bytes, str | bytes]:
    """Kind, guard and id of a write, as ``exchange.lua`` takes them."""
    if write.tag is not None:
        return "replace", write.tag, write.tag
    if write.beside is not None:
        return "beside", write.beside, write.message_id
    return "new", "", write.message_id


def _millis(duration: timedelta) -> int:
    return int(duration / timedelta(milliseconds=1))


# Ids of other producers may be any bytes; as text they keep what is not UTF-8.
def _text(id: bytes) -> str:
    return id.decode(errors="surrogateescape")


def _bytes(id: str) -> bytes:
    return id.encode(errors="surrogateescape")
