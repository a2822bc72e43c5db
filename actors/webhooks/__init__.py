"""``webhook.send``: signed webhooks to the outside world, so that no endpoint harms another.

``actor.py`` has the webhook and its actor. ``limiter.py`` decides, in this process's memory,
whether a delivery may begin now: concurrency limit, rate limit and circuit breaker of its
endpoint, whose numbers ``endpoint_state.py`` keeps. ``registry.py`` is what all processes
together know: how often each endpoint failed in a row, and which are disabled
(``redis_registry.py`` keeps it in Redis). ``registry_sync.py`` carries news between the two once
a second. ``delivery_log.py`` records every attempt in ClickHouse.
"""

from __future__ import annotations

from .actor import deliver_webhook

__all__ = ["deliver_webhook"]
