"""The broker on Redis: every step that must not be torn is one Lua script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from importlib import resources
from uuid import uuid4

from ...core.clock import SYSTEM_CLOCK, Clock, to_millis
from ...core.failure import Failure, Reason
from ..base import BrokerOptions, Envelope, RelayBroker
from ..coalescing import CoalescingConsumer
from ..consumer import RelayConsumer
from ..envelope import Undecodable, decode, quarantine, revive
from ..errors import BrokerRefused
from ..inspection import DeadLetter, QueueCounts
from ..settlement import Settlement
from .connection import address, connect, translated
from .consumer import RedisConsumer
from .keys import Keys

#: LPOP with a count and BZPOPMIN with a fraction of a second came with it.
OLDEST_REDIS = (6, 2)


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
        self.keys = Keys(namespace)
        self.client = connect(url, timeout=self.options.connect_timeout)
        self._where = address(url)
        here = resources.files(__package__)
        self._scripts = {
            name: self.client.register_script(here.joinpath(f"{name}.lua").read_text())
            for name in ("enqueue", "exchange", "recover", "leave", "replay")
        }

    # -- the way in ------------------------------------------------------------------

    def _put(self, envelopes: Sequence[Envelope]) -> None:
        by_queue: dict[str, list[str | bytes | int]] = {}
        for envelope in envelopes:
            due = "" if envelope.due is None else envelope.due
            args = by_queue.setdefault(envelope.message.queue_name, [])
            args += (envelope.message.message_id, due, envelope.body)
        keys = self.keys
        for queue, args in by_queue.items():
            with translated(self._where):
                self._scripts["enqueue"](
                    keys=[
                        keys.waiting(queue),
                        keys.bodies(queue),
                        keys.scheduled(queue),
                        keys.scheduled_bodies(queue),
                        keys.wake(queue),
                        keys.sequence(),
                    ],
                    args=args,
                )

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
        )
        return CoalescingConsumer(consumer, batching) if batching else consumer

    def exchange(
        self, queue: str, room: int, settlement: Settlement, put_back: Sequence[str]
    ) -> tuple[int, list[tuple[str, bytes | None, int]]]:
        """One round trip: carry out, hand back, fetch. See ``exchange.lua``.

        Returns:
            Milliseconds until the next scheduled message is due (-1: there is
            none), and of each message fetched its id, its body (None: it is
            gone) and how many workers it may have killed.
        """
        args: list[str | bytes | int] = [self._now(), self.worker_id, queue, room]
        args.append(len(settlement.schedule))
        for write in settlement.schedule:
            args += (_owned(write.tag), write.tag or write.message_id, write.due, write.body)
        args.append(len(settlement.bury))
        for write in settlement.bury:
            args += (_owned(write.tag), write.tag or write.message_id, write.body)
        args += [len(settlement.remove), *settlement.remove, len(put_back), *put_back]
        keys = self.keys
        with translated(self._where):
            wait, ids, bodies, counts = self._scripts["exchange"](
                keys=[
                    keys.waiting(queue),
                    keys.bodies(queue),
                    keys.scheduled(queue),
                    keys.scheduled_bodies(queue),
                    keys.dead(queue),
                    keys.dead_bodies(queue),
                    keys.in_flight(self.worker_id, queue),
                    keys.heartbeats(),
                    keys.wake(queue),
                    keys.suspects(queue),
                    keys.worker_queues(self.worker_id),
                ],
                args=args,
            )
        suspected = [int(count or 0) for count in counts] or [0] * len(ids)
        return wait, [
            (id.decode(), body, count)
            for id, body, count in zip(ids, bodies, suspected, strict=True)
        ]

    def wait_for_work(self, queue: str, seconds: float) -> None:
        """Sleep until something is enqueued or due sooner than was known, at most ``seconds``."""
        with translated(self._where):
            # Zero would be for ever.
            self.client.bzpopmin(self.keys.wake(queue), timeout=max(seconds, 0.001))

    def count_trial(self, queue: str, id: str) -> None:
        """Count that a worker is about to run a suspected message."""
        with translated(self._where):
            self.client.hincrby(self.keys.suspects(queue), id, 1)

    def in_flight(self, queue: str) -> set[str]:
        """The ids that Redis has in flight for this worker."""
        with translated(self._where):
            ids = self.client.smembers(self.keys.in_flight(self.worker_id, queue))
        return {id.decode() for id in ids}

    def recover(self, queue: str) -> int:
        """Take over the messages of dead workers, drop old dead letters; returns how many came."""
        keys = self.keys
        with translated(self._where):
            count: int = self._scripts["recover"](
                keys=[
                    keys.waiting(queue),
                    keys.bodies(queue),
                    keys.heartbeats(),
                    keys.wake(queue),
                    keys.suspects(queue),
                    keys.dead(queue),
                    keys.dead_bodies(queue),
                ],
                args=[
                    self._now(),
                    _millis(self.options.heartbeat_timeout),
                    _millis(self.options.dead_letter_retention),
                    keys.namespace,
                    queue,
                ],
            )
        return count

    def leave(self, queue: str) -> None:
        """Say that this worker no longer consumes a queue."""
        keys = self.keys
        with translated(self._where):
            self._scripts["leave"](
                keys=[
                    keys.in_flight(self.worker_id, queue),
                    keys.heartbeats(),
                    keys.worker_queues(self.worker_id),
                ],
                args=[self.worker_id, queue],
            )

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
        keys = self.keys
        with translated(self._where):
            self.client.delete(
                keys.waiting(queue_name),
                keys.bodies(queue_name),
                keys.scheduled(queue_name),
                keys.scheduled_bodies(queue_name),
                keys.suspects(queue_name),
            )

    def counts(self, queue: str) -> QueueCounts:
        keys = self.keys
        with translated(self._where):
            pipeline = self.client.pipeline(transaction=True)
            pipeline.llen(keys.waiting(queue))
            pipeline.zcard(keys.scheduled(queue))
            # A body is there for what waits and for what is in flight.
            pipeline.hlen(keys.bodies(queue))
            pipeline.zcard(keys.dead(queue))
            waiting, scheduled, held, dead = pipeline.execute()
        return QueueCounts(queue, waiting, scheduled, max(0, held - waiting), dead)

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
                    yield self._dead_letter(queue, id.decode(), body)

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
            body = self.client.hget(keys.dead_bodies(queue), id)
            if body is None:
                return False
            message = self._dead_letter(queue, id, body).message
            return bool(
                self._scripts["replay"](
                    keys=[
                        keys.dead(queue),
                        keys.dead_bodies(queue),
                        keys.waiting(queue),
                        keys.bodies(queue),
                        keys.wake(queue),
                        keys.sequence(),
                    ],
                    args=[id, revive(message)],
                )
            )

    def delete_dead(self, queue: str, id: str) -> bool:
        keys = self.keys
        with translated(self._where):
            pipeline = self.client.pipeline(transaction=True)
            pipeline.zrem(keys.dead(queue), id)
            pipeline.hdel(keys.dead_bodies(queue), id)
            return bool(pipeline.execute()[0])

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _now(self) -> int:
        return to_millis(self.clock.time())


def _owned(tag: str | None) -> str:
    return "0" if tag is None else "1"


def _millis(duration: timedelta) -> int:
    return int(duration / timedelta(milliseconds=1))
