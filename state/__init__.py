"""State that processes share, in Redis or, without Redis, in this process's memory.

``store.py`` chooses the Redis (``STATE_URL``, otherwise the broker's) and makes the stores::

    idempotency.py                    locks and results of jobs by idempotency key
    rate_limits.py, leases.py         limits on sending e-mails, over all workers
    suppressions.py, bounce_rates.py  addresses that get no e-mail, and when an address becomes one
    journal.py                        outcomes of an e-mail's recipients
    claims.py                         calls that may have written rows into a spreadsheet
    tokens.py                         OAuth tokens for e-mail and Sheets
    audit.py, task_store.py           what operators changed, and the progress of their tasks
    history.py, worker_reports.py     what workers did, by queue and time, and what each runs now
    alert_store.py                    which monitor leads, the states of alerts, and their outbox

``redis/`` has the Redis client, which the Redis broker uses too, the stores in Redis, and
``results.py``, the results of jobs by id.
"""

from __future__ import annotations

from .idempotency import IdempotencyStore, MemoryIdempotencyStore, Once, once
from .redis import DEFAULT_NAMESPACE, StateRedis
from .store import (
    find_state,
    make_alert_store,
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
    make_task_store,
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
    "make_alert_store",
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
    "make_task_store",
    "make_tokens",
    "make_worker_reports",
    "once",
]
