"""Errors of RabbitMQ that callers handle in different ways.

::

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

from pika import spec

from ..errors import BrokerRefused, BrokerUnavailable

_ACCESS_REFUSED, _PRECONDITION_FAILED, _NOT_ALLOWED = 403, 406, 530


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
        super().__init__(f"RabbitMQ at {where} refused: {text}")
        self.where = where
        self.code = code
        self.text = text


class PublishInterrupted(BrokerRefused):
    """RabbitMQ refused one message of a publish and closed the channel.

    Attributes:
        unconfirmed: positions of the messages that RabbitMQ did not confirm.
        is_too_large: whether it refused the message because of its size.
    """

    def __init__(self, message: str, cause: ChannelClosed, unconfirmed: Sequence[int]) -> None:
        super().__init__(message)
        self.unconfirmed = tuple(unconfirmed)
        self.is_too_large = cause.code == _PRECONDITION_FAILED and "message size" in cause.text


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


def login_refused(where: str, close: spec.Connection.Close) -> BrokerRefused | None:
    """The error for a connection that the server closed; None if it did not refuse the user."""
    if close.reply_code == _ACCESS_REFUSED:
        return BrokerRefused(
            f"expected RabbitMQ at {where} to accept our user and password, it refused them: "
            "check RABBITMQ_URL"
        )
    if close.reply_code == _NOT_ALLOWED:
        return BrokerRefused(
            f"expected RabbitMQ at {where} to let our user into the virtual host, it refused "
            f"({close.reply_text}): check the path of RABBITMQ_URL and the user's permissions"
        )
    return None
