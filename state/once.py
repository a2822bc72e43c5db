"""The option by which an actor runs a job of one key once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from threading import Lock

from ..brokers import RelayBroker, get_broker
from ..config import BrokerSettings, get_settings
from ..middleware.once import Ledger, Once
from .ledger import MemoryLedger
from .where import state_redis

_lock = Lock()
_ledger: Ledger | None = None


def once(
    key: Callable[..., str | None],
    *,
    keep: timedelta | None = None,
    lock: timedelta = timedelta(seconds=30),
) -> Once:
    """``@dramatiq.actor(idempotency=once(lambda order: order["id"]))``.

    Args:
        key: called with the message's arguments. It must be made of them alone, and differ where
            the work does; None for a message that is to run whatever has run.
        keep: how long a result is known; default: ``IDEMPOTENCY_KEEP_HOURS``. It is kept as
            JSON where the state is (``STATE_URL``).
        lock: how long a job of the key waits for one whose worker has died.
    """
    if keep is None:
        keep = get_settings().broker.idempotency_keep
    return Once(key, get_ledger, keep, lock)


def make_ledger(section: BrokerSettings, broker: RelayBroker) -> Ledger:
    """Where ``STATE_URL`` says. Talks to no server."""
    redis = state_redis(section, broker)
    if redis is None:
        return MemoryLedger()
    from .redis_ledger import RedisLedger

    return RedisLedger(*redis)


def get_ledger() -> Ledger:
    """This process's, made at the first call."""
    global _ledger
    with _lock:
        if _ledger is None:
            _ledger = make_ledger(get_settings().broker, get_broker())
        return _ledger
