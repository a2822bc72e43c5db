"""The Redis client, and the stores in Redis."""

from __future__ import annotations

from typing import Any, NamedTuple

#: The default namespace, as in stock Dramatiq. Older versions stored inboxes, idempotency keys and
#: endpoints without a namespace; only a broker in this namespace adopts them.
DEFAULT_NAMESPACE = "dramatiq"


class StateRedis(NamedTuple):
    """A Redis that keeps shared state.

    Attributes:
        client: a :class:`.client.RedisClient`.
        where: its address, for error messages.
        namespace: the prefix of every key.
    """

    client: Any
    where: str
    namespace: str = DEFAULT_NAMESPACE
