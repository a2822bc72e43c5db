"""Redis: the client, and what is kept with it."""

from __future__ import annotations

#: The namespace of stock Dramatiq, and the default of formrelay. Older versions kept inboxes,
#: idempotency keys and endpoints outside of namespaces; only this namespace adopts them by itself.
DEFAULT_NAMESPACE = "dramatiq"
