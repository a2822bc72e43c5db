"""The names of the keys in Redis.

A key whose docstring does not begin with "Ours" is a key of stock Dramatiq with the same meaning.
Bodies are stored in stock's hashes, so that its tools show them. The ids of scheduled and dead
messages are stored in sorted sets of ours: stock producers use a list of delayed ids, and stock's
maintenance would delete our dead letters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...core.errors import ConfigError
from ..queue_names import is_queue_name

#: Names of queues whose keys would be keys of another queue or of the namespace.
_RESERVED = re.compile(
    r"\A__|\.(DQ|XQ|msgs|scheduled|dead|wake|suspects|priorities|levels|p\d|paused|inbox|purged)\Z"
)
#: The keys by which a queue is found: bodies, plain jobs, the mark of a paused queue.
_MARKS = re.compile(r"(?P<queue>.+?)(\.[DX]Q)?\.(msgs|inbox|paused)")


def can_be_queue(name: str) -> bool:
    """Whether a queue of Dramatiq can have this name, and shares no key with another queue."""
    return is_queue_name(name) and not _RESERVED.search(name)


def check_queue_name(name: str) -> None:
    """Check that a queue shares no key with another queue.

    Raises:
        ConfigError: the name begins with ``__``, or ends like a key in :class:`Keys`.
    """
    if found := _RESERVED.search(name):
        form = "begin with '__'" if found[1] is None else f"end in '{found[0]}'"
        raise ConfigError(
            f"expected a queue name that does not {form}, got {name!r}: formrelay names its own "
            "keys in Redis like that; rename the queue"
        )


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one namespace."""

    namespace: str

    def waiting(self, queue: str) -> str:
        """List of waiting ids, the next id on the left."""
        return f"{self.namespace}:{queue}"

    def bodies(self, queue: str) -> str:
        """Hash: the body of each waiting or in-flight id."""
        return f"{self.namespace}:{queue}.msgs"

    def scheduled(self, queue: str) -> str:
        """Ours. Sorted set: id by due time in unix ms."""
        return f"{self.namespace}:{queue}.scheduled"

    def stock_delayed(self, queue: str) -> str:
        """List of ids that a stock producer has delayed; adopted as scheduled.

        Older versions of formrelay kept a sorted set here.
        """
        return f"{self.namespace}:{queue}.DQ"

    def scheduled_bodies(self, queue: str) -> str:
        """Hash: the body of each scheduled id."""
        return f"{self.namespace}:{queue}.DQ.msgs"

    def dead(self, queue: str) -> str:
        """Ours. Sorted set: id by time of death in unix ms."""
        return f"{self.namespace}:{queue}.dead"

    def stock_dead(self, queue: str) -> str:
        """Sorted set: dead letters of a stock worker or an older formrelay; adopted as dead."""
        return f"{self.namespace}:{queue}.XQ"

    def dead_bodies(self, queue: str) -> str:
        """Hash: the body of each dead id."""
        return f"{self.namespace}:{queue}.XQ.msgs"

    def in_flight(self, worker: str, queue: str) -> str:
        """Set: the ids in flight for a worker."""
        return f"{self.namespace}:__acks__.{worker}.{queue}"

    def heartbeats(self) -> str:
        """Ours. Sorted set: worker by the unix ms of its last heartbeat.

        Not stock's key: stock's maintenance would take over the messages of a silent worker, and
        stock's producers would count as workers.
        """
        return f"{self.namespace}:__workers__"

    def stock_heartbeats(self) -> str:
        """Sorted set: processes of stock Dramatiq, and workers of an older formrelay."""
        return f"{self.namespace}:__heartbeats__"

    def worker_queues(self, worker: str) -> str:
        """Ours. Set: the queues that a worker consumes."""
        return f"{self.namespace}:__queues__.{worker}"

    def worker_name(self, worker: str) -> str:
        """Ours. String: ``host:pid`` of a worker, with an expiry."""
        return f"{self.namespace}:__worker__.{worker}"

    def priority_lists(self, queue: str) -> list[str]:
        """Ours. Lists of waiting ids by priority, the highest first."""
        return [f"{self.waiting(queue)}.p{priority}" for priority in range(9, 0, -1)]

    def wake(self, queue: str) -> str:
        """Ours. Sorted set with one marker: idle workers block on it."""
        return f"{self.namespace}:{queue}.wake"

    def suspects(self, queue: str) -> str:
        """Ours. Hash: number of workers that a message may have killed, by id."""
        return f"{self.namespace}:{queue}.suspects"

    def priorities(self, queue: str) -> str:
        """Ours. Hash: the priority of each message that has one."""
        return f"{self.namespace}:{queue}.priorities"

    def used_priorities(self, queue: str) -> str:
        """Ours. Sorted set: the priorities whose list (``…:queue.p7``) may hold messages."""
        return f"{self.namespace}:{queue}.levels"

    def paused(self, queue: str) -> str:
        """Ours. String that exists while the queue is paused for all workers."""
        return f"{self.namespace}:{queue}.paused"

    def inbox(self, queue: str) -> str:
        """Ours. List: plain jobs from publishers in other languages."""
        return f"{self.waiting(queue)}.inbox"

    def old_inbox(self, queue: str) -> str:
        """Ours, of older versions. List: plain jobs; the same key in every namespace."""
        return f"formrelay:inbox:{queue}"

    def sequence(self) -> str:
        """Ours. Counter: makes unique ids for messages enqueued under an id that is taken."""
        return f"{self.namespace}:__sequence__"

    def queue_pattern(self) -> str:
        """Pattern for SCAN that matches the keys which :meth:`queue_in` knows, and few others."""
        escaped = re.sub(r"([*?\[\]\\])", r"\\\1", self.namespace)
        # Ends like .msgs, .inbox or .paused.
        return f"{escaped}:*.[mip][sna][gbu][sos]*"

    def marks(self, queue: str) -> list[str]:
        """The keys by which :meth:`queue_in` finds a queue."""
        bodies = (self.bodies(queue), self.scheduled_bodies(queue), self.dead_bodies(queue))
        return [*bodies, self.inbox(queue), self.paused(queue)]

    def queue_in(self, key: str) -> str | None:
        """Name of the queue that a key belongs to; None if it is no key of a queue."""
        name = key.removeprefix(f"{self.namespace}:")
        found = _MARKS.fullmatch(name)
        return found["queue"] if found is not None and can_be_queue(found["queue"]) else None

    def of(self, queue: str) -> list[str]:
        """The keys of a queue, in the order in which ``common.lua`` names them."""
        return [
            self.waiting(queue),
            self.bodies(queue),
            self.scheduled(queue),
            self.scheduled_bodies(queue),
            self.dead(queue),
            self.dead_bodies(queue),
            self.wake(queue),
            self.suspects(queue),
            self.priorities(queue),
            self.used_priorities(queue),
            self.paused(queue),
            self.inbox(queue),
            self.heartbeats(),
            self.sequence(),
        ]
