"""Chooses the Redis that keeps shared state, and makes the stores."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from ..config import BrokerSettings
from .idempotency import IdempotencyStore, MemoryIdempotencyStore
from .redis import StateRedis

if TYPE_CHECKING:
    from .alert_store import AlertStore
    from .audit import AuditLog
    from .bounce_rates import BounceRates
    from .claims import Claims
    from .history import History
    from .journal import Journal
    from .leases import Leases
    from .rate_limits import RateLimits
    from .redis.results import RedisResultStore
    from .suppressions import Suppressions
    from .task_store import TaskStore
    from .tokens import Tokens
    from .worker_reports import WorkerReports


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

    return RedisIdempotencyStore(redis)


def make_result_store(redis: StateRedis | None) -> RedisResultStore | None:
    """Make the store of results in ``redis``; None without Redis, since others must read it.

    Connects to no server.
    """
    if redis is None:
        return None
    from .redis.results import RedisResultStore

    return RedisResultStore(redis)


def make_rate_limits(redis: StateRedis | None) -> RateLimits:
    """Make the rate limits: shared in ``redis``, or of this process alone if that is None.

    Connects to no server.
    """
    if redis is None:
        from .rate_limits import MemoryRateLimits

        return MemoryRateLimits()
    from .redis.rate_limits import RedisRateLimits

    return RedisRateLimits(redis)


def make_leases(redis: StateRedis | None) -> Leases:
    """Make the leases: shared in ``redis``, or of this process alone if that is None.

    Connects to no server.
    """
    if redis is None:
        from .leases import MemoryLeases

        return MemoryLeases()
    from .redis.leases import RedisLeases

    return RedisLeases(redis)


def make_suppressions(redis: StateRedis | None) -> Suppressions:
    """Make the store of suppressed addresses: in ``redis``, or in memory if that is None.

    Connects to no server.
    """
    if redis is None:
        from .suppressions import MemorySuppressions

        return MemorySuppressions()
    from .redis.suppressions import RedisSuppressions

    return RedisSuppressions(redis)


def make_audit_log(redis: StateRedis | None) -> AuditLog:
    """Make the audit log: in ``redis``, or in memory if that is None.

    Connects to no server.
    """
    if redis is None:
        from .audit import MemoryAuditLog

        return MemoryAuditLog()
    from .redis.audit import RedisAuditLog

    return RedisAuditLog(redis)


def make_task_store(redis: StateRedis | None) -> TaskStore:
    """Make the store of long tasks: in ``redis``, or in memory if that is None.

    Connects to no server.
    """
    if redis is None:
        from .task_store import MemoryTaskStore

        return MemoryTaskStore()
    from .redis.task_store import RedisTaskStore

    return RedisTaskStore(redis)


def make_bounce_rates(redis: StateRedis | None) -> BounceRates:
    """Make the numbers of e-mails that bounced: in ``redis``, or in memory if that is None.

    Connects to no server.
    """
    if redis is None:
        from .bounce_rates import MemoryBounceRates

        return MemoryBounceRates()
    from .redis.bounce_rates import RedisBounceRates

    return RedisBounceRates(redis)


def make_journal(redis: StateRedis | None, *, keep: timedelta | None = None) -> Journal:
    """Make the journal of jobs: in ``redis``, or in memory if that is None.

    Connects to no server.

    Args:
        keep: how long a journal is kept after the last change: longer than dead letters, which
            may be replayed. Default: 30 days.
    """
    from .journal import KEEP

    keep = KEEP if keep is None else keep
    if redis is None:
        from .memory_journal import MemoryJournal

        return MemoryJournal(keep=keep)
    from .redis.journal import RedisJournal

    return RedisJournal(redis, keep=keep)


def make_tokens(
    redis: StateRedis | None, keys: Callable[[], str | None], locks: IdempotencyStore
) -> Tokens:
    """Make the store of OAuth tokens: in ``redis``, or in memory if that is None.

    Connects to no server.

    Args:
        keys: returns ``STATE_KEY``, asked at each use; not needed in memory.
        locks: the idempotency store of the same Redis.

    Raises:
        ConfigError: Redis without ``STATE_KEY``, or cryptography is not installed.
    """
    from .tokens import Tokens

    if redis is None:
        from .token_store import MemoryTokenStore

        return Tokens(MemoryTokenStore(), locks, None)
    from .key_ring import KeyRing
    from .redis.tokens import RedisTokenStore

    return Tokens(RedisTokenStore(redis), locks, KeyRing(keys))


def make_history(redis: StateRedis | None) -> History:
    """Make the history of queues: of all workers in ``redis``, or of this process alone in memory.

    Connects to no server.
    """
    if redis is None:
        from .memory_history import MemoryHistory

        return MemoryHistory()
    from .redis.history import RedisHistory

    return RedisHistory(redis)


def make_worker_reports(redis: StateRedis | None) -> WorkerReports:
    """Make the reports of worker processes: in ``redis``, or of this process alone in memory.

    Connects to no server.
    """
    if redis is None:
        from .worker_reports import MemoryWorkerReports

        return MemoryWorkerReports()
    from .redis.worker_reports import RedisWorkerReports

    return RedisWorkerReports(redis)


def make_alert_store(redis: StateRedis | None) -> AlertStore:
    """Make the store of monitors: in ``redis``, or of this process alone if that is None.

    Connects to no server.
    """
    if redis is None:
        from .alert_store import MemoryAlertStore

        return MemoryAlertStore()
    from .redis.alert_store import RedisAlertStore

    return RedisAlertStore(redis)


def make_claims(redis: StateRedis | None) -> Claims:
    """Make the store of claims: shared in ``redis``, or of this process alone if that is None.

    Connects to no server.
    """
    if redis is None:
        from .claims import MemoryClaims

        # A process that ends leaves its entries in the spreadsheet, which has space for 1,000.
        return MemoryClaims(keep_entries=0)
    from .redis.claims import RedisClaims

    return RedisClaims(redis)
