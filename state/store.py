"""Chooses the Redis that keeps shared state, and makes the stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config import BrokerSettings
from .idempotency import IdempotencyStore, MemoryIdempotencyStore
from .redis import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from .redis.results import RedisResultStore


class StateRedis(NamedTuple):
    """A Redis that keeps shared state.

    Attributes:
        client: a :class:`.redis.client.RedisClient`.
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
        section: the broker's settings.
        of_broker: the broker's Redis; None for a broker without Redis.
        is_ending: returns whether this process is shutting down; a server that does not answer is
            not asked again then.

    Returns:
        The Redis; None for state in this process's memory.
    """
    url = section.secret("state_url")
    if url is None:
        return of_broker
    if url.lower().startswith("memory:"):  # URLs have schemes in any case
        return None
    from .redis.connection import connect_redis, redis_address

    client = connect_redis(url, timeout=section.connect_timeout, variable="STATE_URL")
    client.is_ending = is_ending
    return StateRedis(client, redis_address(url), section.namespace)


def make_idempotency_store(redis: StateRedis | None) -> IdempotencyStore:
    """Make the idempotency store: in ``redis``, or in memory if that is None.

    Connects to no server.
    """
    if redis is None:
        return MemoryIdempotencyStore()
    from .redis.idempotency import RedisIdempotencyStore

    return RedisIdempotencyStore(*redis)


def make_result_store(redis: StateRedis | None) -> RedisResultStore | None:
    """Make the store of results in ``redis``; None without Redis, since others must read it.

    Connects to no server.
    """
    if redis is None:
        return None
    from .redis.results import RedisResultStore

    return RedisResultStore(*redis)
