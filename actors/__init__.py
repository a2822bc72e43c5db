"""The actors. Each file or folder has a schema, pure functions and a short actor.

Importing this package reads no configuration and makes no broker. An actor is declared on the
broker (:func:`formrelay.brokers.get_broker`) at its first use or when a worker starts.
"""

from __future__ import annotations

from .bulk import enqueue_many
from .emails import send_email
from .events import record_events
from .job import declare_actors
from .partials import save_partial
from .payments import update_payment
from .sheets import update_sheet
from .submissions import save_submission
from .webhooks import deliver_webhook

__all__ = [
    "declare_actors",
    "deliver_webhook",
    "enqueue_many",
    "record_events",
    "save_partial",
    "save_submission",
    "send_email",
    "update_payment",
    "update_sheet",
]
