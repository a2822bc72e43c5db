"""Where the shared state is kept: the one place that chooses."""

from __future__ import annotations

from typing import Any

from ..brokers import RelayBroker
from ..config import BrokerSettings


def state_redis(section: BrokerSettings, broker: RelayBroker) -> tuple[Any, str, str] | None:
    """The Redis of ``STATE_URL``, else the broker's. Talks to no server.

    Returns:
        A client, its address for error messages, and the namespace of the keys; None: the state
        is in this process's memory.
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
        return client, address(url), section.namespace
    assert isinstance(broker, RedisBroker)
    return broker.client, broker.where, section.namespace
