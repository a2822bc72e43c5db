"""The errors of brokers, under the module name that users import."""

from __future__ import annotations

from ..core.broker_errors import (
    BrokerRefused,
    BrokerUnavailable,
    DeadLettered,
    MessageTooLarge,
    NotReplicated,
)
from ..core.errors import BrokerError

__all__ = [
    "BrokerRefused",
    "BrokerUnavailable",
    "DeadLettered",
    "MessageTooLarge",
    "NotAvailable",
    "NotReplicated",
    "UnknownCursor",
]


class NotAvailable(BrokerError):
    """Not available on this broker.

    Args:
        what: the operation.
        todo: the next step, or an alternative.
    """

    def __init__(self, what: str, todo: str = "") -> None:
        super().__init__(f"{what}: not available on this broker{f'; {todo}' if todo else ''}")


class UnknownCursor(BrokerError, ValueError):
    """The cursor belongs to another query; start without a cursor."""
