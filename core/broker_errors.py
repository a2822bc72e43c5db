"""What can go wrong between us and a broker, by name.

Each is also the Dramatiq error that its worker and its users know.
"""

from __future__ import annotations

from dramatiq.errors import ConnectionClosed, DramatiqError

from .errors import BrokerError


class BrokerUnavailable(BrokerError, ConnectionClosed):
    """The broker cannot be reached."""

    def __init__(self, message: str | None = None) -> None:
        BrokerError.__init__(self, message)
        self.message = str(self.args[0])


class NotReplicated(BrokerUnavailable):
    """The broker has the message, but not as many replicas have it as were asked for."""


class BrokerRefused(BrokerError, DramatiqError):
    """The broker answered and refused (out of memory, read-only, no permission)."""

    def __init__(self, message: str | None = None) -> None:
        BrokerError.__init__(self, message)
        self.message = str(self.args[0])


class MessageTooLarge(BrokerError, ValueError):
    """The message is larger than the broker's limit; nothing was enqueued."""
