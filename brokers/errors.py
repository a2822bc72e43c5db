"""The errors of brokers, under the module name that users import."""

from __future__ import annotations

from ..core.broker_errors import (
    BrokerRefused,
    BrokerUnavailable,
    DeadLettered,
    MessageTooLarge,
    NotReplicated,
)

__all__ = [
    "BrokerRefused",
    "BrokerUnavailable",
    "DeadLettered",
    "MessageTooLarge",
    "NotReplicated",
]
