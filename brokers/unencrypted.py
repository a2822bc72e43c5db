"""Encrypts the secrets of jobs that arrived without encryption, when they are written again.

Publishers in other languages and stock producers send plain text. It stays in the waiting message;
a retry, a frozen batch and a dead letter that a worker writes are encrypted.
"""

from __future__ import annotations

from ..middleware.delivery import Batch, Delivery
from .base import RelayBroker


def encrypt_delivery(broker: RelayBroker, delivery: Delivery) -> Delivery:
    """Encrypt the secrets in a delivery that is about to be written again; returns it."""
    for part in delivery.parts if isinstance(delivery, Batch) else [delivery]:
        message = broker.encrypted(part.message)
        if message is not part.message:
            part.rewrite(message)
    return delivery
