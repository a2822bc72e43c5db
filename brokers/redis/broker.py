"""The broker on Redis."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta

from dramatiq.middleware import Middleware

from ...core.clock import SYSTEM_CLOCK, Clock
from ...core.server_info import ServerInfo
from ...state import DEFAULT_NAMESPACE, StateRedis
from ...state.redis.connection import connect_redis, no_cluster, redis_address, translated
from ...state.redis.server_info import read_server_info
from ..base import RelayBroker
from ..coalescing import CoalescingConsumer, batch_prefetch
from ..consumer import RelayConsumer
from ..contract import BrokerOptions
from ..envelope import Envelope
from ..errors import BrokerRefused
from .commands import QueueCommands
from .consumer import RedisConsumer
from .enqueue import Enqueue
from .in_flight import InFlight
from .inspector import RedisInspector
from .keys import check_queue_name
from .rights import check_rights

#: The first version with LPOP with a count and ZMSCORE.
OLDEST_REDIS = (6, 2)


class RedisBroker(RelayBroker):
    """Queues in a Redis (or Valkey) server.

    Args:
        url: see :func:`~formrelay.state.redis.connection.connect_redis`.
        namespace: the prefix of every key; stock Dramatiq uses ``dramatiq``.
        wait_replicas: number of replicas that must have a message before ``send()`` returns.
        wait_timeout: how long ``send()`` waits for the replicas.
        middleware: added to formrelay's middleware.
    """

    def __init__(
        self,
        url: str,
        *,
        options: BrokerOptions | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        wait_replicas: int = 0,
        wait_timeout: timedelta = timedelta(seconds=1),
        middleware: Iterable[Middleware] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(options or BrokerOptions(), middleware=middleware, clock=clock)
        self.client = connect_redis(url, timeout=self.options.connect_timeout)
        self.client.is_ending = lambda: self.is_stopping
        self.where = redis_address(url)
        self.state = StateRedis(self.client, self.where, namespace)
        self.commands = QueueCommands(self.state, self.options, clock)
        self.keys = self.commands.keys
        self.has_sentinels = "+sentinel:" in url[:20].lower()
        self._enqueue = Enqueue(self.commands, wait_replicas, wait_timeout)
        #: By queue, since they outlive consumers: Dramatiq makes a new consumer after a pause.
        self._in_flight: dict[str, InFlight] = {}

    # -- send ------------------------------------------------------------------------

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue in this process. Connects to no server.

        Raises:
            ConfigError: the name would be a key of another queue.
        """
        check_queue_name(queue_name)
        super().declare_queue(queue_name)

    def _put(self, envelopes: Sequence[Envelope], *, is_repetition: bool = False) -> None:
        self._enqueue(envelopes, is_repetition=is_repetition)

    # -- consume -----------------------------------------------------------------------

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> RelayConsumer:
        """Return a consumer of a queue; it collects batches if the queue has a batch actor."""
        batching = self.batching(queue_name)
        prefetch = max(prefetch, batch_prefetch(batching))
        limit = (self.options.concurrency or {}).get(queue_name)
        async_limit = self.in_flight_limit(queue_name)
        if async_limit is not None:
            # Running attempts of async actors occupy no thread; as many messages are prefetched.
            prefetch, limit = max(prefetch, 2 * async_limit), None
        max_long_runs = None
        if async_limit is not None:
            max_long_runs = max(0, self.in_flight_total(queue_name) - async_limit)
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
            max_long_runs=max_long_runs,
        )
        return self._register(CoalescingConsumer(consumer, batching) if batching else consumer)

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

    def server_info(self) -> ServerInfo:
        with translated(self.where):
            return read_server_info(self.client, self.clock)

    def weaknesses(self) -> list[str]:
        """Report eviction, missing persistence and writes without replicas, from ``INFO``."""
        found = []
        with translated(self.where):
            info = self.client.info()
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and int(info.get("maxmemory", 0)):
            found.append(
                f"maxmemory-policy is {policy}: Redis may evict jobs when it is full; "
                "set it to noeviction"
            )
        elif policy != "noeviction":
            found.append(
                f"maxmemory-policy is {policy}: if maxmemory is set, Redis may evict jobs; "
                "set it to noeviction"
            )
        if not int(info.get("aof_enabled", 0)):
            found.append("appendonly is off: jobs are lost when Redis stops; turn it on")
        replicas = int(info.get("connected_slaves", 0))
        # INFO contains this field only if min-replicas-to-write is set.
        needs_replicas = "min_slaves_good_slaves" in info
        if (replicas or self.has_sentinels) and not needs_replicas and not self._enqueue.replicas:
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
        """Delete the waiting and scheduled messages of a queue; return their number.

        Messages in flight, dead letters and messages enqueued during the call are kept.
        """
        has_begun, is_more, count = self.commands.run("flush", queue_name, [1])
        while is_more or not has_begun:
            begins, is_more, found = self.commands.run("flush", queue_name, [0 if has_begun else 1])
            has_begun, count = has_begun or begins, count + found
        return int(count)

    @property
    def inspector(self) -> RedisInspector:
        return RedisInspector(self, self.commands)

    def close(self) -> None:
        """Close the connections."""
        self.async_runner.stop()
        self.client.close()
