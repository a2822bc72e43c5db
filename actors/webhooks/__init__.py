"""``webhook.send``: signed webhooks, sent so that a slow or failing endpoint delays no other.

- ``actor.py``: the job and its actor; ``schema.py``: the JSON Schema of the job.
- ``limiter.py``: decides in this process's memory whether a delivery may start now.
  ``endpoint_state.py``: concurrency limit, throttling and circuit breaker of one endpoint.
- ``registry.py``: the failures in a row of each endpoint and the disabled endpoints, which all
  processes share. ``redis_registry.py`` keeps them in Redis; ``old_registry.py`` reads the keys of
  older versions.
- ``registry_sync.py``: synchronizes limiter and registry once a second.
- ``delivery_log.py``: records every attempt in ClickHouse.
- ``resources.py``: makes these objects from the settings, once per process.
"""

from __future__ import annotations

from .actor import deliver_webhook

__all__ = ["deliver_webhook"]
