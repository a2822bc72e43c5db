"""The commands on queues in Redis: every step that must not be torn is one Lua script."""

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

#: The name of each script, after the scripts that it begins with.
_SCRIPTS = (
    *((name,) for name in ("done", "enqueue", "leave", "pardon", "replay", "to_stock")),
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

#: Scripts that may run twice: they only read, or only remove.
_HARMLESS = {"counts", "page_sorted", "page_waiting", "leave"}

#: One answer of the server: more would hold its other clients up.
_ANSWER_BYTES = 4 * 1024 * 1024
#: The size up to which undecodable bytes are written as JSON together with the failure.
_MOST_QUARANTINED = 16 * 1024 * 1024
#: How many bodies are sent in one call of :meth:`QueueCommands.remove_done`.
_FEW = 100


class QueueCommands:
    """What senders, consumers and inspectors tell Redis about queues.

    Args:
        state: the client of the broker's Redis, and the namespace of the keys.

    Attributes:
        worker_id: the id under which other processes see the consumers of this process.
        heartbeat_timeout: a worker unheard of for longer is dead.
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
        #: Seconds for which a consumer may block in one call.
        self._longest_block = answer_timeout(self.client) / 2
        here = resources.files(__package__)
        self._scripts = {
            names[-1]: self.client.register_script(
                "".join(here.joinpath(f"{name}.lua").read_text() for name in ("common", *names))
            )
            for names in _SCRIPTS
        }
        self._named_until = 0.0

    @contextmanager
    def talk(self) -> Iterator[Any]:
        """The client, its errors translated."""
        with translated(self.where):
            yield self.client

    def run(
        self, script: str, queue: str, args: Sequence[str | bytes | int] = (), *keys: str
    ) -> Any:
        """Run a script on a queue; its keys stand behind those of the queue."""
        all_keys = [*self.keys.of(queue), *keys]
        with translated(self.where):
            if script in _HARMLESS:
                return repeated(lambda _: self._scripts[script](all_keys, args))
            return self._scripts[script](all_keys, args)

    def script(self, name: str) -> Any:
        """A script of this package, as redis-py registers it."""
        return self._scripts[name]

    def _worker_keys(self, queue: str) -> tuple[str, str]:
        keys = self.keys
        return keys.in_flight(self.worker_id, queue), keys.worker_queues(self.worker_id)

    # -- consuming ---------------------------------------------------------------------

    def exchange(
        self, queue: str, room: int, settlement: Settlement, put_back: Sequence[bytes]
    ) -> tuple[int, list[tuple[bytes, bytes, int]], list[bytes]]:
        """One round trip: settle, hand back, fetch. See ``exchange.lua``.

        Returns:
            Milliseconds until the next scheduled message is due (-1: there is none); of each
            message fetched its id, its body and how many workers it may have killed; and the ids
            that are done, but may be another worker's now (see :meth:`remove_done`).
        """
        args: list[str | bytes | int] = [self.now(), self.worker_id, queue, room, _ANSWER_BYTES]
        args.append(len(settlement.replacements))
        for one in settlement.replacements:
            args += ("untried" if one.is_untried else "", len(one.tags), *one.tags, len(one.writes))
            for write in one.writes:
                args += _fields(write, one.tags[0], queue)
        args += [len(settlement.done), *settlement.done, len(put_back), *put_back]
        answer = self.run("exchange", queue, args, *self._worker_keys(queue))
        wait, ids, bodies, counts, taken_over = answer
        suspected = [int(count or 0) for count in counts] or [0] * len(ids)
        return wait, list(zip(ids, bodies, suspected, strict=True)), taken_over

    def remove_done(self, queue: str, bodies: dict[bytes, bytes]) -> None:
        """Remove messages that are done though another worker has taken them over.

        Args:
            bodies: by id, as this worker got them; another body is another message.
        """
        pairs = list(bodies.items())
        for first in range(0, len(pairs), _FEW):
            some = pairs[first : first + _FEW]
            self.run("done", queue, [part for pair in some for part in pair])

    def wait_for_work(self, queue: str, seconds: float) -> None:
        """Sleep until something is enqueued or due sooner than was known, at most ``seconds``."""
        with translated(self.where):
            # Zero would be for ever.
            block = max(min(seconds, self._longest_block), 0.001)
            self.client.bzpopmin(self.keys.wake(queue), timeout=block)

    def count_trial(self, queue: str, id: bytes) -> None:
        """Count that a worker is about to run a suspected message."""
        with translated(self.where):
            self.client.hincrby(self.keys.suspects(queue), id, 1)

    def pardon(self, queue: str, ids: Sequence[bytes]) -> None:
        """Take back one death each that was counted against messages whose worker lives."""
        self.run("pardon", queue, ids)

    def in_flight(self, queue: str) -> set[bytes]:
        """The ids that Redis has in flight for this worker."""
        with translated(self.where):
            return set(self.client.smembers(self.keys.in_flight(self.worker_id, queue)))

    def recover(self, queue: str) -> tuple[int, int]:
        """Take over the messages of dead workers, and drop old dead letters.

        Returns:
            Number of messages that came back, and of those in flight for this worker.
        """
        args: list[str | bytes | int] = [
            _millis(self.heartbeat_timeout),
            _millis(self.dead_letter_retention),
            self.keys.namespace,
            queue,
            self.worker_id,
        ]
        self._say_name()
        count, in_flight = self.run("recover", queue, args)
        return count, in_flight

    def _say_name(self) -> None:
        """Let operators read who this worker is; forgotten by itself when it is gone."""
        now, lasts = self.clock.monotonic(), 2 * self.heartbeat_timeout
        if now >= self._named_until:
            with translated(self.where):
                name = self.keys.worker_name(self.worker_id)
                self.client.set(name, worker_name(), px=_millis(lasts))
            self._named_until = now + lasts.total_seconds() / 4

    def leave(self, queue: str) -> None:
        """Say that this worker no longer consumes a queue."""
        self.run("leave", queue, [self.worker_id, queue], *self._worker_keys(queue))

    # -- the whole queue ---------------------------------------------------------------

    def drop_waiting(self, queue_name: str) -> int:
        """Drop the messages that wait or are scheduled at this moment; returns how many.

        Messages in flight and dead letters stay.
        """
        has_begun, is_more, count = self.run("flush", queue_name, [1])
        while is_more or not has_begun:
            begins, is_more, found = self.run("flush", queue_name, [0 if has_begun else 1])
            has_begun, count = has_begun or begins, count + found
        return int(count)

    def pause(self, queue: str) -> None:
        """Let no worker take messages of a queue; what is begun is finished."""
        with translated(self.where):
            self.client.set(self.keys.paused(queue), self.now())

    def resume(self, queue: str) -> None:
        """The opposite of :meth:`pause`."""
        with translated(self.where):
            pipeline = self.client.pipeline(transaction=True)
            pipeline.delete(self.keys.paused(queue))
            pipeline.zadd(self.keys.wake(queue), {"w": 0})
            pipeline.execute()

    def now(self) -> int:
        """Unix milliseconds."""
        return to_millis(self.clock.time())


def _fields(write: Write, tag: bytes, queue: str) -> tuple[str | bytes | int, ...]:
    """A write as ``exchange.lua`` takes it: id, due, priority, body."""
    body = write.body
    # Base64 makes a third more of it, and Redis takes no value over proto-max-bulk-len: more bytes
    # are kept as they are. Whoever lists them finds out again why they cannot be decoded.
    if write.failure is not None and len(body) <= _MOST_QUARANTINED:
        letter = quarantine(
            body, queue_name=queue, message_id=write.message_id, failure=write.failure
        )
        body = encode(letter)
    due = "" if write.due is None else write.due
    return tag if write.keeps_id else write.message_id, due, write.priority or "", body


def _millis(duration: timedelta) -> int:
    return int(duration / timedelta(milliseconds=1))
