"""Where the records are kept: the one place that chooses."""

from __future__ import annotations

from ..brokers import RelayBroker
from ..config import BrokerSettings
from .records import MemoryRecords, Records


def make_records(section: BrokerSettings, broker: RelayBroker) -> Records:
    """In the Redis of ``STATE_URL``, else in the broker's, else in this process's memory.

    Talks to no server.
    """
    url = section.secret("state_url")
    if url is None and section.kind == "rabbitmq":
        return MemoryRecords()
    if url is not None and url.startswith("memory:"):
        return MemoryRecords()
    from ..brokers.redis.broker import RedisBroker
    from ..brokers.redis.connection import address, connect
    from .redis_records import RedisRecords

    if url is not None:
        return RedisRecords(connect(url, timeout=section.connect_timeout), address(url))
    assert isinstance(broker, RedisBroker)
    return RedisRecords(broker.client, broker.where)
