"""Where the records are kept: the one place that chooses."""

from __future__ import annotations

from ..brokers import RelayBroker
from ..config import BrokerSettings
from ..state import state_redis
from .records import MemoryRecords, Records


def make_records(section: BrokerSettings, broker: RelayBroker) -> Records:
    """In the Redis of ``STATE_URL``, else in the broker's, else in this process's memory.

    Talks to no server.
    """
    redis = state_redis(section, broker)
    if redis is None:
        return MemoryRecords()
    from .redis_records import RedisRecords

    return RedisRecords(*redis)
