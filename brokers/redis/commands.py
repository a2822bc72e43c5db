"""The commands on queues in Redis; every step that must be atomic is one Lua script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib import resources
from typing import Any
from uuid import uuid4

from ...core.clock import Clock, to_millis
from ...core.failure import worker_name
from ...state import StateRedis
from ...state.redis.client import repeated
from ...state.redis.connection import answer_timeout, translated
from ..contract import BrokerOptions
from ..envelope import encode, quarantine
from ..settlement import Settlement, Write
from .keys import Keys

#: Each script is the last name, preceded by the files that it includes (and ``common``).
_SCRIPTS = (
    *((name,) for name in ("done", "enqueue", "leave", "replay", "to_stock", "uncount_death")),
    ("adopt", "adopt_dead"),
    ("adopt", "exchange"),
    ("adopt", "prepare_stock"),
    ("adopt", "probe"),
    ("adopt", "purge", "counts"),
    ("adopt", "purge", "recover"),
    ("page", "page_sorted"),
    ("page", "page_waiting"),
    ("purge", "flush"),
)

#: Scripts that are repeated on a new connection when their answer is lost.
_IDEMPOTENT = {"counts", "page_sorted", "page_waiting", "leave"}

#: Maximum bytes of one answer: building a larger answer would block the server's other clients.
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
#: Maximum size of undecodable bytes that are stored as JSON together with their failure.
_MAX_QUARANTINED_BYTES = 16 * 1024 * 1024
#: Maximum number of bodies in one call of ``done.lua``.
_BODIES_PER_CALL = 100


class QueueCommands:
    """The commands of senders, consumers and inspectors on queues.

    Args:
        state: the client of the broker's Redis, and the namespace of the keys.

    Attributes:
        worker_id: the id of this process in Redis.
        heartbeat_timeout: time without a heartbeat after which a worker counts as dead.
        dead_letter_retention: how long dead letters are kept.
    """

    def __init__(self, state: StateRedis, options: BrokerOptions, clock: Clock) -> None:
        self.client = state.client
        self.where = state.where
        self.keys = Keys(state.namespace)
        self.clock = clock
        self.worker_id = str(uuid4())
        self.heartbeat_timeout = options.heartbeat_timeout
        self.dead_letter_retention = options.dead_letter_retention
        #: Maximum seconds for which a consumer blocks in one call.
        self._max_block = answer_timeout(self.client) / 2
        here = resources.files(__package__)
        self._scripts = {
            names[-1]: self.client.register_script(
                "".join(here.joinpath(f"{name}.lua").read_text() for name in ("common", *names))
            )
            for names in _SCRIPTS
        }
        self._named_until = 0.0

    @contextmanager
    def client_errors(self) -> Iterator[Any]:
        """Yield the client; its errors become BrokerUnavailable and BrokerRefused."""
        with translated(self.where):
            yield self.client

    def run(
        self, script: str, queue: str, args: Sequence[str | bytes | int] = (), *keys: str
    ) -> Any:
        """Run a script on a queue.

        Args:
            keys: KEYS of the script after the keys of the queue.
        """
        all_keys = [*self.keys.of(queue), *keys]
        with translated(self.where):
            if script in _IDEMPOTENT:
                return repeated(lambda _: self._scripts[script](all_keys, args))
            return self._scripts[script](all_keys, args)

    def script(self, name: str) -> Any:
        """Return a script of this package, as registered with redis-py."""
        return self._scripts[name]

    def _worker_keys(self, queue: str) -> tuple[str, str]:
        keys = self.keys
        return keys.in_flight(self.worker_id, queue), keys.worker_queues(self.worker_id)

    # -- consuming ---------------------------------------------------------------------

    def exchange(
        self, queue: str, limit: int, settlement: Settlement, requeued: Sequence[bytes]
    ) -> tuple[int, list[tuple[bytes, bytes, int]], list[bytes]]:
        """Settle, requeue and fetch messages in one round trip (``exchange.lua``).

        Args:
            limit: maximum number of messages to fetch.
            requeued: ids of messages to put back on the queue.

        Returns:
            Milliseconds until the next scheduled message is due (-1 without any); id, body and
            number of workers that it may have killed, for each fetched message; and the ids of
            messages that are done and may have been taken over (for :meth:`remove_done`).
        """
        args: list[str | bytes | int] = [self.now(), self.worker_id, queue]
        args += (limit, _MAX_ANSWER_BYTES, len(settlement.replacements))
        for replacement in settlement.replacements:
            tags, writes = replacement.tags, replacement.writes
            args += ("suspect" if replacement.stays_suspect else "", len(tags), *tags, len(writes))
            for write in writes:
                args += _fields(write, tags[0], queue)
        args += [len(settlement.done), *settlement.done, len(requeued), *requeued]
        answer = self.run("exchange", queue, args, *self._worker_keys(queue))
        wait, ids, bodies, counts, taken_over = answer
        deaths = [int(count or 0) for count in counts] or [0] * len(ids)
        return wait, list(zip(ids, bodies, deaths, strict=True)), taken_over

    def remove_done(self, queue: str, bodies: dict[bytes, bytes]) -> None:
        """Remove messages that this worker has done and another worker has taken over.

        Args:
            bodies: body by id, as this worker received it. A message that now has another body
                under that id is kept.
        """
        pairs = list(bodies.items())
        for first in range(0, len(pairs), _BODIES_PER_CALL):
            chunk = pairs[first : first + _BODIES_PER_CALL]
            self.run("done", queue, [part for pair in chunk for part in pair])

    def wait_for_work(self, queue: str, seconds: float) -> None:
        """Block until a message is enqueued or becomes the first to be due; at most ``seconds``."""
        with translated(self.where):
            # Zero would mean without a limit.
            block = max(min(seconds, self._max_block), 0.001)
            self.client.bzpopmin(self.keys.wake(queue), timeout=block)

    def count_death(self, queue: str, id: bytes) -> None:
        """Count a death against a suspect before its run; settling it removes the count."""
        with translated(self.where):
            self.client.hincrby(self.keys.suspects(queue), id, 1)

    def uncount_death(self, queue: str, ids: Sequence[bytes]) -> None:
        """Remove one death from the count of each message: its worker is alive."""
        self.run("uncount_death", queue, ids)

    def in_flight(self, queue: str) -> set[bytes]:
        """Return the ids of the messages that Redis has in flight for this worker."""
        with translated(self.where):
            return set(self.client.smembers(self.keys.in_flight(self.worker_id, queue)))

    def recover(self, queue: str) -> tuple[int, int]:
        """Requeue the messages of dead workers, and delete expired dead letters.

        Returns:
            Number of requeued messages, and number of messages in flight for this worker.
        """
        args: list[str | bytes | int] = [
            _millis(self.heartbeat_timeout),
            _millis(self.dead_letter_retention),
            self.keys.namespace,
            queue,
            self.worker_id,
        ]
        self._refresh_name()
        count, in_flight = self.run("recover", queue, args)
        return count, in_flight

    def _refresh_name(self) -> None:
        """Store ``host:pid`` of this worker for operators, with an expiry."""
        now, lasts = self.clock.monotonic(), 2 * self.heartbeat_timeout
        if now >= self._named_until:
            with translated(self.where):
                name = self.keys.worker_name(self.worker_id)
                self.client.set(name, worker_name(), px=_millis(lasts))
            self._named_until = now + lasts.total_seconds() / 4

    def leave(self, queue: str) -> None:
        """Unregister this worker from a queue."""
        self.run("leave", queue, [self.worker_id, queue], *self._worker_keys(queue))

    # -- the whole queue ---------------------------------------------------------------

    def drop_waiting(self, queue_name: str) -> int:
        """Delete the waiting and scheduled messages of a queue; return their number.

        Messages in flight, dead letters and messages enqueued during the call are kept.
        """
        has_begun, is_more, count = self.run("flush", queue_name, [1])
        while is_more or not has_begun:
            begins, is_more, found = self.run("flush", queue_name, [0 if has_begun else 1])
            has_begun, count = has_begun or begins, count + found
        return int(count)

    def pause(self, queue: str) -> None:
        """Stop all workers from fetching messages of a queue; running messages are finished."""
        with translated(self.where):
            self.client.set(self.keys.paused(queue), self.now())

    def resume(self, queue: str) -> None:
        """Let workers fetch messages of a paused queue again."""
        with translated(self.where):
            pipeline = self.client.pipeline(transaction=True)
            pipeline.delete(self.keys.paused(queue))
            pipeline.zadd(self.keys.wake(queue), {"w": 0})
            pipeline.execute()

    def now(self) -> int:
        """Unix milliseconds."""
        return to_millis(self.clock.time())


def _fields(write: Write, tag: bytes, queue: str) -> tuple[str | bytes | int, ...]:
    """Return the arguments of ``exchange.lua`` for a write: id, due, priority, body."""
    body = write.body
    # Base64 adds a third, which could exceed proto-max-bulk-len. Larger bodies are stored as they
    # are; an inspector decodes them again to find the failure.
    if write.failure is not None and len(body) <= _MAX_QUARANTINED_BYTES:
        letter = quarantine(
            body, queue_name=queue, message_id=write.message_id, failure=write.failure
        )
        body = encode(letter)
    due = "" if write.due is None else write.due
    return tag if write.keeps_id else write.message_id, due, write.priority or "", body


def _millis(duration: timedelta) -> int:
    return int(duration / timedelta(milliseconds=1))
