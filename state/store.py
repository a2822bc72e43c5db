"""Where shared state is kept: the one place that chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..config import BrokerSettings
from .idempotency import IdempotencyStore, MemoryIdempotencyStore
from .redis import DEFAULT_NAMESPACE


class StateRedis(NamedTuple):
    """A Redis that keeps shared state.

    Attributes:
        client: of redis-py.
        where: its address, for error messages.
        namespace: the prefix of every key.
    """

    client: Any
    where: str
    namespace: str = DEFAULT_NAMESPACE


def find_state(
    section: BrokerSettings, of_broker: StateRedis | None, *, is_ending: Callable[[], bool]
) -> StateRedis | None:
    """Find the Redis of ``STATE_URL``, otherwise the broker's. Connects to no server.

    Args:
        of_broker: the broker's Redis; None where the broker has none.
        is_ending: tells whether this process ends, so that a silent server is not asked again.

    Returns:
        None where state is kept in this process's memory.
    """
    url = section.secret("state_url")
    if url is None:
        return of_broker
    if url.startswith("memory:"):
        return None
    from .redis.connection import address, connect

    client = connect(url, timeout=section.connect_timeout, variable="STATE_URL")
    client.is_ending = is_ending
    return StateRedis(client, address(url), section.namespace)


def make_idempotency_store(redis: StateRedis | None) -> IdempotencyStore:
    """Make the store of idempotency keys: in Redis, or in memory where ``redis`` is None.

    Connects to no server.
    """
    if redis is None:
        return MemoryIdempotencyStore()
    from .redis.idempotency import RedisIdempotencyStore

    return RedisIdempotencyStore(*redis)
