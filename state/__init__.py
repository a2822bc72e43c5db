"""State that processes share, in Redis or, without Redis, in this process's memory.

``store.py`` chooses the Redis (``STATE_URL``, otherwise the broker's). ``idempotency.py`` stores
locks and results of jobs by idempotency key, ``redis/results.py`` the results of jobs by id.
``rate_limits.py``, ``leases.py``, ``suppressions.py``, ``bounce_rates.py`` and ``journal.py``
serve e-mail, ``claims.py`` serves Sheets, ``tokens.py`` both. ``audit.py`` is the audit log of
operators, ``task_board.py`` has the progress of their tasks, ``history.py`` stores what workers
did, by queue and time, ``worker_reports.py`` what each runs now. ``redis/`` is the Redis client,
which the Redis broker uses too, and the stores in Redis.
"""

from __future__ import annotations

from .idempotency import IdempotencyStore, MemoryIdempotencyStore, Once, once
from .redis import DEFAULT_NAMESPACE, StateRedis
from .store import (
    find_state,
    make_audit_log,
    make_bounce_rates,
    make_claims,
    make_history,
    make_idempotency_store,
    make_journal,
    make_leases,
    make_rate_limits,
    make_result_store,
    make_suppressions,
    make_task_board,
    make_tokens,
    make_worker_reports,
)

__all__ = [
    "DEFAULT_NAMESPACE",
    "IdempotencyStore",
    "MemoryIdempotencyStore",
    "Once",
    "StateRedis",
    "find_state",
    "make_audit_log",
    "make_bounce_rates",
    "make_claims",
    "make_history",
    "make_idempotency_store",
    "make_journal",
    "make_leases",
    "make_rate_limits",
    "make_result_store",
    "make_suppressions",
    "make_task_board",
    "make_tokens",
    "make_worker_reports",
    "once",
]
