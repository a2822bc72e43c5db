"""Converts the messages of a queue to the format of stock Dramatiq, to stop using formrelay.

Stock's worker acknowledges a message by its option ``redis_message_id``, which our messages lack.
It does not know priorities, plain jobs, frozen batches or our sorted sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from dramatiq import Message
from dramatiq.common import dq_name

from ...core.errors import InvalidJob
from ...core.failure import Failure
from ...middleware.delivery import RETRIES
from ..envelope import Undecodable, decode, decode_batch, encode, is_frozen, wrap_undecodable
from ..errors import BrokerRefused
from .broker import RedisBroker
from .pages import BODIES_PER_CALL, to_bytes, to_text

#: Bytes of one call of the script: a larger call would block the server's other clients.
_CALL_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class Conversion:
    """The result of converting one queue.

    Attributes:
        waiting, scheduled, dead: number of messages that stock Dramatiq now has.
        split: number of frozen batches that were split; their parts are counted above.
        undecodable: number of messages that were dead-lettered, as they cannot be decoded.
        paused: whether the queue is paused; stock Dramatiq ignores that.
    """

    queue: str
    waiting: int = 0
    scheduled: int = 0
    dead: int = 0
    split: int = 0
    undecodable: int = 0
    paused: bool = False


def refuse_running_workers(broker: RedisBroker) -> None:
    """Check that no worker of formrelay runs, since it would adopt the converted messages again.

    Raises:
        BrokerRefused: a worker sent a heartbeat within the heartbeat time-out.
    """
    since = broker.clock.time() - broker.options.heartbeat_timeout.total_seconds()
    workers = broker.inspector.workers()
    running = [worker for worker in workers if (worker.last_heartbeat or 0) >= since]
    if running:
        names = ", ".join(worker.name or worker.id for worker in running)
        raise BrokerRefused(
            f"expected no running worker of formrelay, got {names}: stop the workers; a killed "
            f"worker counts as running for {broker.options.heartbeat_timeout.total_seconds():g} s"
        )


def convert_queue(broker: RedisBroker, queue: str) -> Conversion:
    """Convert every message of a queue for stock Dramatiq, a chunk in each atomic step.

    If it is interrupted, run it again. Call :func:`refuse_running_workers` first.

    Raises:
        BrokerUnavailable, BrokerRefused
    """
    return _Converter(broker, queue).run()


class _Converter:
    def __init__(self, broker: RedisBroker, queue: str) -> None:
        self._commands, self._job_types = broker.commands, broker.job_types
        self._queue = queue
        self._done = Conversion(queue)

    def run(self) -> Conversion:
        commands, queue, keys, done = self._commands, self._queue, self._commands.keys, self._done
        commands.recover(queue)  # requeues the messages of dead workers
        commands.leave(queue)
        while commands.run("prepare_stock", queue):
            pass
        lists = [keys.waiting(queue), *reversed(keys.priority_lists(queue))]
        for priority, key in enumerate(lists):
            self._list(str(priority) if priority else "waiting", key)
        self._sorted("scheduled", keys.scheduled(queue), keys.scheduled_bodies(queue))
        self._sorted("dead", keys.dead(queue), keys.dead_bodies(queue))
        with commands.client_errors() as client:
            client.delete(keys.wake(queue), keys.used_priorities(queue))
            done.paused = bool(client.exists(keys.paused(queue)))
            done.waiting = client.llen(keys.waiting(queue))
            done.scheduled = client.llen(keys.stock_delayed(queue))
            done.dead = client.zcard(keys.stock_dead(queue))
        return done

    def _list(self, source: str, key: str) -> None:
        """Convert a waiting list: from its start without a priority, else from its end."""
        is_plain = source == "waiting"
        with self._commands.client_errors() as client:
            left = client.llen(key)
        while left > 0:
            size = min(left, BODIES_PER_CALL)
            with self._commands.client_errors() as client:
                ids = client.lrange(key, 0, size - 1) if is_plain else client.lrange(key, -size, -1)
            if not ids:
                return
            if not is_plain:
                ids.reverse()
            bodies = self._bodies(self._commands.keys.bodies(self._queue), ids)
            left -= self._write(source, [self._live(id, bodies[id], None) for id in ids])

    def _sorted(self, source: str, key: str, hash_: str) -> None:
        """Convert the scheduled messages or the dead letters."""
        while True:
            with self._commands.client_errors() as client:
                found = client.zrange(key, 0, BODIES_PER_CALL - 1, withscores=True)
            if not found:
                return
            bodies = self._bodies(hash_, [id for id, _ in found])
            if source == "dead":
                items = [_Item(id, True, self._letter(id, bodies[id])) for id, _ in found]
            else:
                items = [self._live(id, bodies[id], int(score)) for id, score in found]
            self._write(source, items)

    def _bodies(self, hash_: str, ids: list[bytes]) -> dict[bytes, bytes | None]:
        with self._commands.client_errors() as client:
            return dict(zip(ids, client.hmget(hash_, ids), strict=True))

    def _write(self, source: str, items: list[_Item]) -> int:
        """Write items in bounded calls; return the number of messages that still existed."""
        written, args, size = 0, list[str | bytes | int](), 0
        for number, item in enumerate(items, 1):
            messages = item.messages
            if source not in ("waiting", "scheduled"):
                messages = messages[::-1]
            args += [item.id, int(item.is_dead), len(messages)]
            for id, body in messages:
                args += [id, body]
                size += len(body)
            if size > _CALL_BYTES or number == len(items):
                written += int(self._commands.run("to_stock", self._queue, [source, *args]))
                args, size = [], 0
        return written

    # -- one message ---------------------------------------------------------------------

    def _live(self, id: bytes, body: bytes | None, due: int | None) -> _Item:
        """Convert a waiting or scheduled message."""
        if body is None:  # deleted by a dashboard
            return _Item(id, False, [])
        try:
            messages = self._split(body, to_text(id))
        except Undecodable as error:
            self._done.undecodable += 1
            failure = Failure.undecodable(error, now=self._commands.clock.time())
            letter = wrap_undecodable(
                body, queue_name=self._queue, message_id=to_text(id), failure=failure
            )
            return _Item(id, True, [_encoded(letter, to_text(id), None)])
        return _Item(id, False, [_encoded(message, str(uuid4()), due) for message in messages])

    def _split(self, body: bytes, id: str) -> list[Message[Any]]:
        """Decode a message; a frozen batch becomes the messages of its parts."""
        message = decode(
            body, queue_name=self._queue, job_types=self._job_types, message_id=id or None
        )
        if not is_frozen(message):
            return [message]
        self._done.split += 1
        attempts = message.options.get(RETRIES)
        more = {} if attempts is None else {RETRIES: attempts}
        return [part.message.copy(options=more) for part in decode_batch(message, None, body).parts]

    def _letter(self, id: bytes, body: bytes | None) -> list[tuple[bytes, bytes]]:
        """Convert a dead letter; stock's dashboard expects its id in its options."""
        if body is None:
            return []
        try:
            message = decode(body, queue_name=self._queue, job_types=self._job_types)
            return [(id, _encoded(message, to_text(id), None)[1])]
        except (Undecodable, InvalidJob):
            return [(id, body)]  # unchanged, since it is never run


@dataclass(frozen=True, slots=True)
class _Item:
    """A message, and the stock messages that replace it.

    Attributes:
        is_dead: whether it becomes a dead letter.
        messages: id and body of each stock message.
    """

    id: bytes
    is_dead: bool
    messages: list[tuple[bytes, bytes]]


def _encoded(message: Message[Any], id: str, due: int | None) -> tuple[bytes, bytes]:
    fields = message.asdict()
    fields["options"] = {**message.options, "redis_message_id": id}
    if due is not None:
        fields["options"]["eta"] = due
        fields["queue_name"] = dq_name(message.queue_name)
    return to_bytes(id), encode(Message(**fields))
