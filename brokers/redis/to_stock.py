"""Gives the messages of a queue back to stock Dramatiq.

Its worker acknowledges a message by the option ``redis_message_id``, which ours have not, and
knows neither priorities, the inbox, frozen batches nor our sorted sets.
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
from ..envelope import Undecodable, decode, encode, is_frozen, quarantine, thaw
from ..errors import BrokerRefused
from .broker import RedisBroker
from .pages import FEW, to_bytes, to_text

#: One call of the script: more would hold the server's other clients up.
_CALL_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class Returned:
    """What became of the messages of one queue.

    Attributes:
        waiting, scheduled, dead: messages that stock Dramatiq now has.
        split: frozen batches that were taken apart; their parts are counted above.
        undecodable: messages that are dead letters now since nobody can run them.
        paused: whether the queue is paused, which stock Dramatiq does not know.
    """

    queue: str
    waiting: int = 0
    scheduled: int = 0
    dead: int = 0
    split: int = 0
    undecodable: int = 0
    paused: bool = False


def refuse_running_workers(broker: RedisBroker) -> None:
    """Check that no worker of formrelay runs; it would take back what stock Dramatiq is given.

    Raises:
        BrokerRefused: one was heard of within the heartbeat time-out.
    """
    since = broker.clock.time() - broker.options.heartbeat_timeout.total_seconds()
    running = [one for one in broker.inspector.workers() if (one.last_heartbeat or 0) >= since]
    if running:
        names = ", ".join(one.name or one.id for one in running)
        raise BrokerRefused(
            f"expected no running worker of formrelay, got {names}: stop the workers; a killed "
            f"worker counts as running for {broker.options.heartbeat_timeout.total_seconds():g} s"
        )


def give_back(broker: RedisBroker, queue: str) -> Returned:
    """Give every message of a queue to stock Dramatiq, some in each atomic step.

    Stopped half-way, it can be run again. Call :func:`refuse_running_workers` first.

    Raises:
        BrokerUnavailable, BrokerRefused
    """
    return _GiveBack(broker, queue).run()


class _GiveBack:
    def __init__(self, broker: RedisBroker, queue: str) -> None:
        self._commands, self._job_types = broker.commands, broker.job_types
        self._queue = queue
        self._done = Returned(queue)

    def run(self) -> Returned:
        commands, queue, keys, done = self._commands, self._queue, self._commands.keys, self._done
        commands.recover(queue)  # what dead workers had in flight waits again
        commands.leave(queue)
        while commands.run("prepare_stock", queue):
            pass
        lists = [keys.waiting(queue), *reversed(keys.levels_waiting(queue))]
        for level, key in enumerate(lists):
            self._list(str(level) if level else "waiting", key)
        self._sorted("scheduled", keys.scheduled(queue), keys.scheduled_bodies(queue))
        self._sorted("dead", keys.dead(queue), keys.dead_bodies(queue))
        with commands.talk() as client:
            client.delete(keys.wake(queue), keys.levels(queue))
            done.paused = bool(client.exists(keys.paused(queue)))
            done.waiting = client.llen(keys.waiting(queue))
            done.scheduled = client.llen(keys.stock_delayed(queue))
            done.dead = client.zcard(keys.stock_dead(queue))
        return done

    def _list(self, where: str, key: str) -> None:
        """Give back a list: the plain one goes round once, another one from its end."""
        is_plain = where == "waiting"
        with self._commands.talk() as client:
            left = client.llen(key)
        while left > 0:
            some = min(left, FEW)
            with self._commands.talk() as client:
                ids = client.lrange(key, 0, some - 1) if is_plain else client.lrange(key, -some, -1)
            if not ids:
                return
            if not is_plain:
                ids.reverse()
            bodies = self._bodies(self._commands.keys.bodies(self._queue), ids)
            left -= self._write(where, [self._live(id, bodies[id], None) for id in ids])

    def _sorted(self, where: str, key: str, hash_: str) -> None:
        """Give back the scheduled messages, or the dead letters."""
        while True:
            with self._commands.talk() as client:
                found = client.zrange(key, 0, FEW - 1, withscores=True)
            if not found:
                return
            bodies = self._bodies(hash_, [id for id, _ in found])
            if where == "dead":
                items = [_Item(id, True, self._letter(id, bodies[id])) for id, _ in found]
            else:
                items = [self._live(id, bodies[id], int(score)) for id, score in found]
            self._write(where, items)

    def _bodies(self, hash_: str, ids: list[bytes]) -> dict[bytes, bytes | None]:
        with self._commands.talk() as client:
            return dict(zip(ids, client.hmget(hash_, ids), strict=True))

    def _write(self, where: str, items: list[_Item]) -> int:
        """Write items in calls of bounded size; returns how many were there still."""
        written, args, size = 0, list[str | bytes | int](), 0
        for number, item in enumerate(items, 1):
            made = item.made if where in ("waiting", "scheduled") else item.made[::-1]
            args += [item.id, int(item.is_dead), len(made)]
            for id, body in made:
                args += [id, body]
                size += len(body)
            if size > _CALL_BYTES or number == len(items):
                written += int(self._commands.run("to_stock", self._queue, [where, *args]))
                args, size = [], 0
        return written

    # -- one message ---------------------------------------------------------------------

    def _live(self, id: bytes, body: bytes | None, due: int | None) -> _Item:
        """A message that waits or is scheduled, as stock Dramatiq runs it."""
        if body is None:  # deleted by a dashboard
            return _Item(id, False, [])
        try:
            messages = self._taken_apart(body, to_text(id))
        except Undecodable as error:
            self._done.undecodable += 1
            failure = Failure.undecodable(error, now=self._commands.clock.time())
            letter = quarantine(
                body, queue_name=self._queue, message_id=to_text(id), failure=failure
            )
            return _Item(id, True, [_encoded(letter, to_text(id), None)])
        return _Item(id, False, [_encoded(message, str(uuid4()), due) for message in messages])

    def _taken_apart(self, body: bytes, id: str) -> list[Message[Any]]:
        message = decode(
            body, queue_name=self._queue, job_types=self._job_types, message_id=id or None
        )
        if not is_frozen(message):
            return [message]
        self._done.split += 1
        attempts = message.options.get(RETRIES)
        more = {} if attempts is None else {RETRIES: attempts}
        return [part.message.copy(options=more) for part in thaw(message, None, body).parts]

    def _letter(self, id: bytes, body: bytes | None) -> list[tuple[bytes, bytes]]:
        """A dead letter under its own id, which stock's dashboard looks for in its options."""
        if body is None:
            return []
        try:
            message = decode(body, queue_name=self._queue, job_types=self._job_types)
            return [(id, _encoded(message, to_text(id), None)[1])]
        except (Undecodable, InvalidJob):
            return [(id, body)]  # nobody runs it: as it came


@dataclass(frozen=True, slots=True)
class _Item:
    """A message of ours, and the messages of stock Dramatiq's that take its place, by their ids."""

    id: bytes
    is_dead: bool
    made: list[tuple[bytes, bytes]]


def _encoded(message: Message[Any], id: str, due: int | None) -> tuple[bytes, bytes]:
    fields = message.asdict()
    fields["options"] = {**message.options, "redis_message_id": id}
    if due is not None:
        fields["options"]["eta"] = due
        fields["queue_name"] = dq_name(message.queue_name)
    return to_bytes(id), encode(Message(**fields))
