"""What processes know together: where it is kept, and which jobs have run.

``where.py`` chooses (``STATE_URL``); ``ledger.py`` keeps the results and locks of idempotency
keys in memory, ``redis_ledger.py`` in Redis.
"""

from __future__ import annotations

from .ledger import MemoryLedger
from .once import get_ledger, make_ledger, once
from .where import state_redis

__all__ = ["MemoryLedger", "get_ledger", "make_ledger", "once", "state_redis"]
