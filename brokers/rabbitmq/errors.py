"""AMQP's reply codes, and the errors that callers of RabbitMQ handle in different ways::

BrokerUnavailable
    NoAnswer            RabbitMQ did not answer in time
    PublishersBlocked   RabbitMQ takes no messages for now
BrokerRefused
    ChannelClosed       RabbitMQ refused an operation
    PartlyRefused       some messages of a publish are not on their queues
    PublishInterrupted  RabbitMQ refused a message of a publish and closed the channel
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import BrokerRefused, BrokerUnavailable

ACCESS_REFUSED, NOT_FOUND, RESOURCE_LOCKED, PRECONDITION_FAILED = 403, 404, 405, 406
NOT_ALLOWED = 530


class NoAnswer(BrokerUnavailable):
    """RabbitMQ did not answer in time."""


class PublishersBlocked(BrokerUnavailable):
    """RabbitMQ takes no messages for now, because it is out of memory or disk."""


class ChannelClosed(BrokerRefused):
    """RabbitMQ refused an operation and closed the channel.

    Attributes:
        code: AMQP's reply code (404 not found, 406 precondition failed, …).
        text: the error text of the server.
        where: the server's host and port.
    """

    def __init__(self, where: str, code: int, text: str) -> None:
        says = f"RabbitMQ at {where} refused: {text}"
        if code == PRECONDITION_FAILED and "acknowledgement" in text:
            says = (
                f"RabbitMQ at {where} redelivers the jobs in flight, which run a second time: a "
                "job took longer than the server's consumer_timeout; lower the actor's time_limit, "
                f"or raise consumer_timeout ({text})"
            )
        super().__init__(says)
        self.where = where
        self.code = code
        self.text = text

    @property
    def is_node_down(self) -> bool:
        """Whether a durable classic queue is on a node that is down."""
        return self.code == NOT_FOUND and "down or inaccessible" in self.text


class PublishInterrupted(BrokerRefused):
    """RabbitMQ refused one message of a publish and closed the channel.

    Attributes:
        unconfirmed: positions of the messages that RabbitMQ did not confirm.
        is_too_large: whether it refused the message because of its size.
    """

    def __init__(self, message: str, cause: ChannelClosed, unconfirmed: Sequence[int]) -> None:
        super().__init__(message)
        self.unconfirmed = tuple(unconfirmed)
        self.is_too_large = "message size" in cause.text


class PartlyRefused(BrokerRefused):
    """RabbitMQ refused some messages of a publish; the others are on their queues.

    Attributes:
        refused: positions of the refused messages in the call (``enqueue_many``: in its chunk).
        count: number of messages in the call.
    """

    def __init__(self, message: str, refused: Sequence[int], count: int) -> None:
        super().__init__(message)
        self.refused = tuple(refused)
        self.count = count
