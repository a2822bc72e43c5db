"""The Redis client, and the stores in Redis."""

from __future__ import annotations

#: The default namespace, as in stock Dramatiq. Older versions stored inboxes, idempotency keys and
#: endpoints without a namespace; only a broker in this namespace adopts them.
DEFAULT_NAMESPACE = "dramatiq"
