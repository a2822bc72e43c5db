"""The names of the keys, in one place.

Keys without a note are stock Dramatiq's and mean the same there. Bodies lie in stock's hashes, so
that its tools show them. The ids of scheduled and dead messages lie in sorted sets of ours, so that
a stock producer can add to its own list of delayed ids and stock's maintenance deletes no dead
letter of ours.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one namespace."""

    namespace: str

    def waiting(self, queue: str) -> str:
        """List of waiting ids, the next one on the left."""
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
        """Set: the ids that a worker holds."""
        return f"{self.namespace}:__acks__.{worker}.{queue}"

    def heartbeats(self) -> str:
        """Ours. Sorted set: worker by the unix ms of its last sign of life.

        Not stock's: its maintenance would take the messages of a silent worker, and its producers
        would count as workers.
        """
        return f"{self.namespace}:__workers__"

    def stock_heartbeats(self) -> str:
        """Sorted set: processes of stock Dramatiq, and workers of an older formrelay."""
        return f"{self.namespace}:__heartbeats__"

    def worker_queues(self, worker: str) -> str:
        """Ours. Set: the queues a worker consumes, so that nobody has to search with KEYS."""
        return f"{self.namespace}:__queues__.{worker}"

    def worker_name(self, worker: str) -> str:
        """Ours. The ``host:pid`` of a worker, for people; it expires."""
        return f"{self.namespace}:__worker__.{worker}"

    def levels_waiting(self, queue: str) -> list[str]:
        """Ours. Lists of waiting ids, one for each priority, the highest first."""
        return [f"{self.waiting(queue)}.p{level}" for level in range(9, 0, -1)]

    def wake(self, queue: str) -> str:
        """Ours. Sorted set of one marker: an idle worker blocks on it."""
        return f"{self.namespace}:{queue}.wake"

    def suspects(self, queue: str) -> str:
        """Ours. Hash: of messages whose worker died, how many workers they may have killed."""
        return f"{self.namespace}:{queue}.suspects"

    def priorities(self, queue: str) -> str:
        """Ours. Hash: the priority of each message that has one."""
        return f"{self.namespace}:{queue}.priorities"

    def levels(self, queue: str) -> str:
        """Ours. Sorted set: the priorities for which a list ``…:queue.p7`` may hold something."""
        return f"{self.namespace}:{queue}.levels"

    def paused(self, queue: str) -> str:
        """Ours. There while the queue is paused for all workers."""
        return f"{self.namespace}:{queue}.paused"

    def inbox(self, queue: str) -> str:
        """Ours. List: plain jobs that publishers in other languages have pushed."""
        return f"{self.waiting(queue)}.inbox"

    def old_inbox(self, queue: str) -> str:
        """Where publishers of older versions push plain jobs, whatever the namespace."""
        return f"formrelay:inbox:{queue}"

    def sequence(self) -> str:
        """Ours. Counter: tells apart two messages enqueued under one id."""
        return f"{self.namespace}:__sequence__"

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
            self.levels(queue),
            self.paused(queue),
            self.inbox(queue),
            self.heartbeats(),
            self.sequence(),
        ]
