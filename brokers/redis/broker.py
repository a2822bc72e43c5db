"""The broker on Redis."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

from ...core.clock import SYSTEM_CLOCK, Clock
from ...state import DEFAULT_NAMESPACE, StateRedis
from ...state.redis.connection import address, connect, no_cluster, translated
from ..async_attempts import MAX_LONG
from ..base import RelayBroker
from ..coalescing import CoalescingConsumer
from ..consumer import RelayConsumer
from ..contract import BrokerOptions, Envelope
from ..errors import BrokerRefused
from .commands import QueueCommands
from .consumer import RedisConsumer
from .enqueue import Enqueue
from .in_flight import InFlight
from .inspector import RedisInspector
from .rights import check_rights

#: LPOP with a count and BZPOPMIN with a fraction of a second came with it.
OLDEST_REDIS = (6, 2)


class RedisBroker(RelayBroker):
    """Queues in a Redis (or Valkey) server.

    Args:
        url: see :func:`.connection.connect`.
        namespace: the prefix of every key; stock Dramatiq's is ``dramatiq``.
        wait_replicas: number of replicas that must have a message before ``send()`` returns.
        wait_timeout: how long ``send()`` waits for them.
    """

    def __init__(
        self,
        url: str,
        *,
        options: BrokerOptions | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        wait_replicas: int = 0,
        wait_timeout: timedelta = timedelta(seconds=1),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(options or BrokerOptions(), clock=clock)
        self.client = connect(url, timeout=self.options.connect_timeout)
        self.client.is_ending = lambda: self.is_stopping
        self.where = address(url)
        self.state = StateRedis(self.client, self.where, namespace)
        self.commands = QueueCommands(self.state, self.options, clock)
        self.keys = self.commands.keys
        self.has_sentinels = "+sentinel:" in url[:20].lower()
        self._enqueue = Enqueue(self.commands, wait_replicas, wait_timeout)
        #: By queue: they outlive a consumer, which Dramatiq makes anew after a pause.
        self._in_flight: dict[str, InFlight] = {}

    # -- the way in ------------------------------------------------------------------

    def _put(self, envelopes: Sequence[Envelope], *, is_repetition: bool = False) -> None:
        self._enqueue(envelopes, is_repetition=is_repetition)

    # -- the way out -------------------------------------------------------------------

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> RelayConsumer:
        """A consumer of a queue; coalescing, where a batch actor is declared on it."""
        batching = self.batching(queue_name)
        if batching:
            # One batch at work and one being collected.
            prefetch = max(prefetch, 2 * max(one.size for one in batching.values()))
        limit = (self.options.concurrency or {}).get(queue_name)
        begun = self.in_flight_limit(queue_name)
        if begun is not None:
            # Those that are begun keep no thread; as many again are ready when one is over.
            prefetch, limit = max(prefetch, 2 * begun), None
        if limit is not None and not batching:
            prefetch = min(prefetch, limit)
        if queue_name not in self._in_flight:
            self._in_flight[queue_name] = InFlight(self.commands, queue_name)
        consumer = RedisConsumer(
            self,
            self.commands,
            self._in_flight[queue_name],
            queue_name,
            prefetch=prefetch,
            timeout_ms=timeout,
            fixed_prefetch=limit is not None or bool(batching),
            coalesces=bool(batching),
            max_long_runs=MAX_LONG * (begun or 0),
        )
        return CoalescingConsumer(consumer, batching) if batching else consumer

    # -- operations ----------------------------------------------------------------------

    def ping(self, queues: Collection[str] | None = None) -> None:
        with translated(self.where):
            server = self.client.info("server")
        version = str(server["redis_version"])
        if server.get("redis_mode") == "cluster":
            raise BrokerRefused(no_cluster(self.where))
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
            raise BrokerRefused(
                f"expected Redis 6.2 or newer at {self.where}, got {version}: upgrade the server"
            )
        for queue in sorted(self.queues if queues is None else queues):
            check_rights(self.commands, queue)

    def weaknesses(self) -> list[str]:
        """Eviction, missing persistence, and writes no replica has, as far as the server tells."""
        found = []
        with translated(self.where):
            info = self.client.info()
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and int(info.get("maxmemory", 0)):
            found.append(
                f"maxmemory-policy is {policy}: Redis may throw jobs away when it is full; "
                "set it to noeviction"
            )
        elif policy != "noeviction":
            found.append(
                f"maxmemory-policy is {policy}: with a maxmemory Redis would throw jobs away; "
                "set it to noeviction"
            )
        if not int(info.get("aof_enabled", 0)):
            found.append("appendonly is off: what Redis holds is lost when it ends; turn it on")
        replicas = int(info.get("connected_slaves", 0))
        # Redis tells the number of good replicas where it asks for any.
        asks_for_some = "min_slaves_good_slaves" in info
        if (replicas or self.has_sentinels) and not asks_for_some and not self._enqueue.replicas:
            found.append(
                "min-replicas-to-write is 0: a failover can lose the jobs that were accepted last; "
                "set it to 1 on the master and its replicas, or REDIS_WAIT_REPLICAS=1"
            )
        if replicas < self._enqueue.replicas:
            found.append(
                f"REDIS_WAIT_REPLICAS is {self._enqueue.replicas}, but the number of connected "
                f"replicas is {replicas}: every send() raises NotReplicated; start replicas or "
                "lower REDIS_WAIT_REPLICAS"
            )
        return found

    def drop_waiting(self, queue_name: str) -> int:
        """Drop the messages that wait or are scheduled at this moment; returns how many.

        Messages in flight and dead letters stay.
        """
        return self.commands.drop_waiting(queue_name)

    @property
    def inspector(self) -> RedisInspector:
        return RedisInspector(self, self.commands)

    def close(self) -> None:
        """Close the connections."""
        self.async_runner.stop()
        self.client.close()
