"""What RabbitMQ may answer that a caller wants to tell apart.

::

    BrokerUnavailable
        Silent          it did not answer in time
        Blocked         it takes no messages for now
    BrokerRefused
        ChannelClosed   it refused an operation
        NotTaken        some messages of a call are not on their queues
        Interrupted     it refused a message of a call and closed the channel
"""

from __future__ import annotations

from collections.abc import Sequence

from pika import spec

from ..errors import BrokerRefused, BrokerUnavailable

_ACCESS_REFUSED, _PRECONDITION_FAILED, _NOT_ALLOWED = 403, 406, 530


class Silent(BrokerUnavailable):
    """RabbitMQ did not answer in time."""


class Blocked(BrokerUnavailable):
    """RabbitMQ takes no messages for now: it is out of memory or disk."""


class ChannelClosed(BrokerRefused):
    """RabbitMQ refused an operation and closed the channel.

    Attributes:
        code: AMQP's reply code (404 not found, 406 precondition failed, …).
        text: what the server said.
        where: the server's host and port.
    """

    def __init__(self, where: str, code: int, text: str) -> None:
        super().__init__(f"RabbitMQ at {where} refused: {text}")
        self.where = where
        self.code = code
        self.text = text


class Interrupted(BrokerRefused):
    """RabbitMQ refused one message of a call and closed the channel.

    Attributes:
        unconfirmed: positions of the messages of which it is not known that they were taken.
        is_too_large: whether the message was too large.
    """

    def __init__(self, message: str, cause: ChannelClosed, unconfirmed: Sequence[int]) -> None:
        super().__init__(message)
        self.unconfirmed = tuple(unconfirmed)
        self.is_too_large = cause.code == _PRECONDITION_FAILED and "message size" in cause.text


class NotTaken(BrokerRefused):
    """Some messages of one call are not on their queues; the others are.

    Attributes:
        refused: positions of the messages that were not taken, in the call
            (``enqueue_many``: in its chunk).
        count: how many there were.
    """

    def __init__(self, message: str, refused: Sequence[int], count: int) -> None:
        super().__init__(message)
        self.refused = tuple(refused)
        self.count = count


def login_refused(where: str, close: spec.Connection.Close) -> BrokerRefused | None:
    """The error for a connection that the server closed; None where it did not refuse our user."""
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
