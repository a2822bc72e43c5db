"""Where shared state is kept: the one place that chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..config import BrokerSettings

#: Stock Dramatiq's namespace, and ours by default. Its inbox, idempotency keys and endpoints had
#: names outside of every namespace once; this namespace alone takes them over by itself.
DEFAULT_NAMESPACE = "dramatiq"


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
    """The Redis of ``STATE_URL``, else the broker's. Talks to no server.

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
