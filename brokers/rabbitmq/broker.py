"""The broker on RabbitMQ."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from weakref import WeakSet

from dramatiq.middleware import Middleware
from pika import spec

from ...core.clock import SYSTEM_CLOCK, Clock
from ...core.errors import ConfigError
from ...core.server_info import ServerInfo
from ..base import RelayBroker
from ..coalescing import CoalescingConsumer, batch_prefetch
from ..consumer import RelayConsumer
from ..contract import BrokerOptions
from ..envelope import Envelope
from ..errors import BrokerRefused
from ..inspection import Inspector
from .client import RabbitClient
from .consumer import RabbitConsumer
from .counting import QueueCounter
from .errors import ACCESS_REFUSED, ChannelClosed
from .inspector import RabbitInspector
from .management import Management
from .rights import check_rights
from .topology import Topology


class RabbitBroker(RelayBroker):
    """Broker with its queues in RabbitMQ.

    Args:
        url: ``amqp://`` or ``amqps://``, with one or more hosts (see :func:`.servers.servers`).
        queue_type: ``quorum`` or ``classic``.
        workers: worker name by queue (see :class:`.topology.Topology`).
        max_priority: highest ``broker_priority`` of messages, 1 to 255; higher priorities are
            delivered first. Makes the work queues classic queues. None: no priorities.
        adopt: names of existing work queues or dead-letter queues to use unchanged; a mapping
            also gives the dead-letter exchange of each.
        management_url: ``http://user:password@host:15672/api``, for the list of workers and the
            number of messages in flight, which AMQP does not report.
        middleware: added to formrelay's middleware.

    Raises:
        ConfigError: the URL is invalid, or max_priority is not 1 to 255.
    """

    messaging_system = "rabbitmq"
    # A message between two queues, or on its way to this process, is in no count.
    _empty_checks = 3

    def __init__(
        self,
        url: str,
        *,
        options: BrokerOptions | None = None,
        queue_type: str = "quorum",
        workers: dict[str, str] | None = None,
        max_priority: int | None = None,
        adopt: Mapping[str, str | None] | Iterable[str] = (),
        management_url: str | None = None,
        middleware: Iterable[Middleware] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(options or BrokerOptions(), middleware=middleware, clock=clock)
        if max_priority is not None and not 1 <= max_priority <= 255:
            raise ConfigError(f"expected max_priority to be 1 to 255, got {max_priority}")
        adopted = adopt if isinstance(adopt, Mapping) else dict.fromkeys(adopt)
        topology = Topology(
            queue_type, workers or {}, self.options.dead_letter_retention, max_priority, adopted
        )
        self.client = RabbitClient(url, topology, timeout=self.options.connect_timeout, clock=clock)
        self._consumers: WeakSet[RabbitConsumer] = WeakSet()
        self.management: Management | None = None
        if management_url is not None:
            self.management = Management(
                management_url,
                virtual_host=self.client.servers[0].virtual_host,
                timeout=self.options.connect_timeout.total_seconds(),
            )
        self._counter = QueueCounter(self.client, self.management)

    # -- send ------------------------------------------------------------------------

    def _put(self, envelopes: Sequence[Envelope], *, is_repetition: bool = False) -> None:
        self.client.put(envelopes)

    # -- consume -----------------------------------------------------------------------

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> RelayConsumer:
        """Return a consumer of a queue; it collects batches if the queue has a batch actor."""
        batching = self.batching(queue_name)
        prefetch = max(prefetch, batch_prefetch(batching))
        limit = (self.options.concurrency or {}).get(queue_name)
        async_limit = self.in_flight_limit(queue_name)
        if async_limit is not None:
            # Async attempts occupy no thread, and long runs may not count against the limit.
            # RabbitMQ's prefetch counts both.
            prefetch = max(prefetch, async_limit + self.in_flight_total(queue_name))
        if batching or async_limit is not None:
            limit = None
        if limit is not None:
            prefetch = min(prefetch, limit)
        consumer = RabbitConsumer(
            self,
            self.client,
            queue_name,
            prefetch=prefetch,
            timeout_ms=timeout,
            limit=limit,
            fixed_prefetch=limit is not None or bool(batching),
        )
        self._consumers.add(consumer)
        return self._register(CoalescingConsumer(consumer, batching) if batching else consumer)

    # -- join --------------------------------------------------------------------------

    def in_flight(self, queue_name: str) -> int:
        """Count the messages that this process has received of a queue and not settled."""
        return sum(one.in_flight for one in list(self._consumers) if one.queue_name == queue_name)

    def is_drained(self, queue_name: str) -> bool:
        """Whether no message of a queue is waiting or in flight in this process, and none is
        scheduled.

        The delay queues are shared, so that the scheduled messages of other queues count too.
        Workers of other processes are seen only with ``management_url``.
        """
        if self.in_flight(queue_name):
            return False
        counts = self.counts(queue_name)
        if counts.waiting or counts.in_flight:
            return False
        return not self._counter.scheduled()

    # -- operations ----------------------------------------------------------------------

    def ping(self, queues: Collection[str] | None = None) -> None:
        declared = self.client.declared
        with closing(self.client.connect()) as connection:
            declared.forget()
            declared.ensure(connection, sorted(self.queues if queues is None else queues))

    def weaknesses(self) -> list[str]:
        problem = self.inspector.degraded()
        return [] if problem is None else [problem]

    def server_info(self) -> ServerInfo:
        with closing(self.client.connect()) as connection:
            return connection.server_info

    def try_access(self) -> list[str]:
        queues = sorted(self.queues)
        try:
            with self.client.connection(queues) as connection:
                return check_rights(connection, self.client.topology, queues)
        except ChannelClosed as error:
            if error.code != ACCESS_REFUSED:
                raise
            raise BrokerRefused(
                f"expected the right to send, fetch and settle, got: {error.text}; docs/brokers.md "
                "says which rights a user needs"
            ) from None

    def drop_waiting(self, queue_name: str) -> int:
        """Delete the waiting messages of a queue, but no dead letters.

        Scheduled messages are kept, because all queues share the delay queues.

        Returns:
            Number of messages deleted.
        """
        with self.client.connection([queue_name]) as connection:
            return int(connection.call(spec.Queue.Purge(queue=queue_name)).message_count)

    def get_queue_message_counts(self, queue_name: str) -> tuple[int, int, int]:
        """Count the waiting, scheduled and dead messages, as Dramatiq's RabbitmqBroker does.

        The scheduled messages of all queues are counted, because all queues share the delay queues.
        """
        counts = self.counts(queue_name)
        return counts.waiting, self._counter.scheduled(), counts.dead

    @property
    def inspector(self) -> Inspector:
        return RabbitInspector(self, self.client, self.management, self._counter)

    def close(self) -> None:
        """Close the connections of this process."""
        self.async_runner.stop()
        self.client.close()
