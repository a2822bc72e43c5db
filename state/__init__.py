"""State that processes share: the one store, in Redis or in this process's memory.

``store.py`` finds the store (``STATE_URL``, else the broker's Redis); ``idempotency.py`` keeps
locks and results of jobs by key. ``redis/`` holds the client of redis-py, which the Redis broker
uses too.
"""

from __future__ import annotations

from .idempotency import IdempotencyStore, MemoryIdempotencyStore, Once, once
from .redis import DEFAULT_NAMESPACE
from .store import StateRedis, find_state, make_idempotency_store

__all__ = [
    "DEFAULT_NAMESPACE",
    "IdempotencyStore",
    "MemoryIdempotencyStore",
    "Once",
    "StateRedis",
    "find_state",
    "make_idempotency_store",
    "once",
]
