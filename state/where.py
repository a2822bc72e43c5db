"""Where the shared state is kept: the one place that chooses."""

from __future__ import annotations

from typing import Any

from ..brokers import RelayBroker
from ..config import BrokerSettings


def state_redis(section: BrokerSettings, broker: RelayBroker) -> tuple[Any, str] | None:
    """The Redis of ``STATE_URL``, else the broker's: a client and its address, for messages.

    None: it is this process's memory. Talks to no server.
    """
    url = section.secret("state_url")
    if url is None and section.kind == "rabbitmq":
        return None
    if url is not None and url.startswith("memory:"):
        return None
    from ..brokers.redis.broker import RedisBroker
    from ..brokers.redis.connection import address, connect

    if url is not None:
        client = connect(url, timeout=section.connect_timeout, variable="STATE_URL")
        client.is_ending = lambda: broker.is_stopping
        return client, address(url)
    assert isinstance(broker, RedisBroker)
    return broker.client, broker.where
