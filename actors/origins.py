"""Where the jobs of a call come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dramatiq.middleware import CurrentMessage

from ..middleware.delivery import Batch, Delivery

#: Message id, time of sending (unix milliseconds), attempt, whether it is redelivered.
JobOrigin = tuple[str, int, int, bool]


def origins_of(batch: Sequence[Any]) -> Sequence[JobOrigin]:
    """Id, time of sending, attempt and whether it is redelivered, of each message of a batch."""
    delivery = current_delivery()
    if not isinstance(delivery, Batch) or len(delivery.parts) != len(batch):
        return [("", 0, 1, False)] * len(batch)  # a direct call
    if delivery.was_stored:  # its own attempts are attempts of all parts
        attempt, again = delivery.attempt, delivery.is_redelivered
    else:
        attempt, again = 1, False
    return [
        (
            part.message_id,
            part.message.message_timestamp,
            max(attempt, part.attempt),
            again or part.is_redelivered,
        )
        for part in delivery.parts
    ]


def current_delivery() -> Delivery | None:
    """The message that this thread processes; None for a direct call."""
    message = CurrentMessage.get_current_message()
    return message if isinstance(message, Delivery) else None
