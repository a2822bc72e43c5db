"""The workers: one file each, its schema, a pure core, and an actor thin as a door.

Importing this package makes the broker of the configuration (see
:func:`formrelay.brokers.get_broker`) and declares the actors on it.
"""

from __future__ import annotations

from .bulk import enqueue_many
from .events import record_events
from .partials import save_partial
from .payments import update_payment
from .submissions import save_submission
from .webhooks import deliver_webhook

__all__ = [
    "deliver_webhook",
    "enqueue_many",
    "record_events",
    "save_partial",
    "save_submission",
    "update_payment",
]
