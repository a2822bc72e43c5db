"""Errors of a broker.

Each class is also the Dramatiq error that Dramatiq's worker and its users catch.
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
    """The broker has the message, but too few replicas confirmed it."""


class BrokerRefused(BrokerError, DramatiqError):
    """The broker refused the command: out of memory, read-only or no permission."""

    def __init__(self, message: str | None = None) -> None:
        BrokerError.__init__(self, message)
        self.message = str(self.args[0])


class MessageTooLarge(BrokerError, ValueError):
    """The message is larger than the broker's limit; nothing was enqueued."""


class DeadLettered(BrokerError):
    """A message was dead-lettered."""
