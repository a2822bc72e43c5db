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
from .keys import Keys

#: Each script is the last name, preceded by the files that it includes (and ``common``).
_SCRIPTS = (
    *((name,) for name in ("add_dead", "done", "edit", "enqueue", "leave", "replay")),
    *((name,) for name in ("to_stock", "uncount_death")),
    ("adopt", "adopt_dead"),
    ("adopt", "exchange"),
    ("adopt", "prepare_stock"),
    ("adopt", "probe"),
    ("adopt", "purge", "counts"),
    ("adopt", "purge", "recover"),
    ("page", "page_newest"),
    ("page", "page_sorted"),
    ("page", "page_waiting"),
    ("purge", "flush"),
)

#: Scripts that are repeated on a new connection when their answer is lost.
_IDEMPOTENT = {"counts", "page_newest", "page_sorted", "page_waiting", "leave"}

#: Maximum bytes of one answer: building a larger answer would block the server's other clients.
MAX_ANSWER_BYTES = 4 * 1024 * 1024
#: How long the name of a worker is kept, at least.
NAME_LASTS = timedelta(minutes=10)
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
        scripts: the Lua scripts by name, as registered with redis-py.
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
        self.scripts = {
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
                return repeated(lambda _: self.scripts[script](all_keys, args))
            return self.scripts[script](all_keys, args)

    def worker_keys(self, queue: str) -> tuple[str, str]:
        """Return the keys that some scripts need after the keys of the queue."""
        keys = self.keys
        return keys.in_flight(self.worker_id, queue), keys.worker_queues(self.worker_id)

    # -- consuming ---------------------------------------------------------------------

    def remove_done(self, queue: str, bodies: dict[bytes, bytes]) -> None:
        """Remove messages that this worker has finished and another worker has taken over.

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
        count, in_flight = self.run("recover", queue, args)
        return count, in_flight

    def refresh_name(self) -> None:
        """Store ``host:pid`` of this worker for operators, with an expiry.

        Called before each heartbeat, so that no worker is listed without a name.
        """
        now, lasts = self.clock.monotonic(), max(2 * self.heartbeat_timeout, NAME_LASTS)
        if now >= self._named_until:
            with translated(self.where):
                name = self.keys.worker_name(self.worker_id)
                self.client.set(name, worker_name(), px=_millis(lasts))
            self._named_until = now + lasts.total_seconds() / 4

    def leave(self, queue: str) -> None:
        """Unregister this worker from a queue."""
        self.run("leave", queue, [self.worker_id, queue], *self.worker_keys(queue))

    def now(self) -> int:
        """Unix milliseconds."""
        return to_millis(self.clock.time())


def _millis(duration: timedelta) -> int:
    return int(duration / timedelta(milliseconds=1))
