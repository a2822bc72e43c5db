"""Queues on Redis, RabbitMQ or the embedded broker, behind one interface.

The steps of a message, and the files that implement them (docs/message.md has all of them)::

    send      base.py, then redis/enqueue.py or rabbitmq/client.py
    consume   redis/consumer.py, rabbitmq/consumer.py
    decode    consumer.py with envelope.py; undecodable bytes are quarantined
    admit     ../middleware/throttling.py, idempotency.py, admission.py
    perform   ../actors/, in a thread of Dramatiq or by async_runner.py
    classify  ../middleware/outcomes.py with ../core/outcomes.py
    follow    follow_ups.py
    settle    settlement.py makes the settlement; the consumer applies it
"""

from __future__ import annotations

from .base import RelayBroker
from .contract import BrokerOptions
from .errors import BrokerRefused, BrokerUnavailable, DeadLettered, MessageTooLarge
from .factory import get_broker, make_broker, use_broker
from .inspection import (
    DeadFilter,
    Entry,
    Inspector,
    NotAvailable,
    Page,
    QueueCounts,
    State,
    WorkerInfo,
)

__all__ = [
    "BrokerOptions",
    "BrokerRefused",
    "BrokerUnavailable",
    "DeadFilter",
    "DeadLettered",
    "Entry",
    "Inspector",
    "MessageTooLarge",
    "NotAvailable",
    "Page",
    "QueueCounts",
    "RelayBroker",
    "State",
    "WorkerInfo",
    "get_broker",
    "make_broker",
    "use_broker",
]
