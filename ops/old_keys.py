"""Find and move Redis keys of older versions, which ignored BROKER_NAMESPACE (``formrelay:…``).

Workers with the default namespace adopt these keys by themselves. With another namespace an
operator must decide, because several environments may share a server.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from ..actors.webhooks.old_registry import OLD_DELIVERED, OLD_DISABLED, OLD_RECORDS, OldRegistry
from ..actors.webhooks.redis_registry import DELIVERED, RedisRegistry
from ..brokers import get_broker
from ..brokers.redis.broker import RedisBroker
from ..config import get_settings
from ..core.errors import ConfigError
from ..state import DEFAULT_NAMESPACE
from ..state.redis.connection import translated
from ..state.redis.idempotency import OLD_PREFIX, RedisIdempotencyStore

_CHUNK = 1_000


def find_old_keys() -> list[str]:
    """Return the old keys, unless the default namespace is used, whose workers adopt them.

    Leaves out idempotency keys: they expire, and finding them needs a scan of the server.
    """
    if get_settings().broker.namespace == DEFAULT_NAMESPACE:
        return []
    found = [key for client, where, key in _inboxes() if _exists(client, where, key)]
    state = get_broker().state
    if state is not None:
        client, where, _ = state
        found += [key for key in (OLD_RECORDS, OLD_DISABLED) if _exists(client, where, key)]
    return found


def move_old_keys(*, dry_run: bool) -> dict[str, int]:
    """Move the old keys under BROKER_NAMESPACE; existing keys there stay unchanged.

    Returns:
        The number of old keys (or entries) of each kind.
    """
    counts = {"plain jobs": 0, "endpoints": 0, "idempotency keys": 0, "delivered webhooks": 0}
    broker = get_broker()
    for client, where, key in _inboxes():
        assert isinstance(broker, RedisBroker)
        new = broker.keys.inbox(key.rpartition(":")[2])
        with translated(where):
            counts["plain jobs"] += client.llen(key) if dry_run else _move_list(client, key, new)
    state = broker.state
    if state is None:
        return counts
    client, where, namespace = state
    with translated(where):
        counts["endpoints"] = client.hlen(OLD_RECORDS)
        if not dry_run:
            RedisRegistry(client, where, namespace).adopt(OldRegistry(client))
            client.delete(OLD_DISABLED)
        for name, old, new in (
            ("idempotency keys", OLD_PREFIX, RedisIdempotencyStore.prefix),
            ("delivered webhooks", OLD_DELIVERED, DELIVERED),
        ):
            for keys in _chunks(client.scan_iter(match=f"{old}*", count=_CHUNK)):
                counts[name] += len(keys)
                if not dry_run:
                    _rename(client, keys, old, namespace + new)
    return counts


def _inboxes() -> Iterator[tuple[Any, str, str]]:
    """Yield client, address and key of the old inbox of each queue."""
    broker = get_broker()
    if isinstance(broker, RedisBroker):
        for queue in sorted(broker.queues):
            yield broker.client, broker.where, broker.keys.old_inbox(queue)


def _exists(client: Any, where: str, key: str) -> bool:
    with translated(where):
        return bool(client.exists(key))


def _move_list(client: Any, old: str, new: str) -> int:
    count, left = 0, client.llen(old)
    while left > 0:
        pipeline = client.pipeline(transaction=False)
        for _ in range(min(left, _CHUNK)):
            pipeline.lmove(old, new, "LEFT", "RIGHT")
        moved = sum(item is not None for item in pipeline.execute())
        if not moved:
            break
        count, left = count + moved, left - moved
    return count


def _rename(client: Any, keys: list[bytes], old: str, new: str) -> None:
    """Rename keys, which keeps their expiry; an existing new key is not overwritten."""
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.renamenx(key, new.encode() + key.removeprefix(old.encode()))
    # A key may have expired since the scan.
    pipeline.execute(raise_on_error=False)


def _chunks(keys: Iterator[bytes]) -> Iterator[list[bytes]]:
    while chunk := list(islice(keys, _CHUNK)):
        yield chunk


def refuse_default_namespace() -> None:
    """Refuse the default namespace, whose workers adopt the old keys.

    Raises:
        ConfigError: BROKER_NAMESPACE is the default.
    """
    if get_settings().broker.namespace == DEFAULT_NAMESPACE:
        raise ConfigError(
            "expected a BROKER_NAMESPACE other than 'dramatiq', got 'dramatiq': nothing to do, "
            "workers in this namespace already use the keys of older versions"
        )
