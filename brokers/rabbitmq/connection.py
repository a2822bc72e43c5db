"""A pika connection, and pika's errors by our names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pika
from pika.exceptions import (
    AMQPConnectionError,
    AMQPError,
    AuthenticationError,
    ChannelClosedByBroker,
    NackError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    UnroutableError,
)

from ..errors import BrokerRefused, BrokerUnavailable


def parameters(url: str, *, timeout: timedelta) -> pika.URLParameters:
    """Connection parameters.

    Args:
        url: ``amqp://`` or ``amqps://``.
        timeout: to connect, and for an answer of a blocked server.
    """
    seconds = timeout.total_seconds()
    found = pika.URLParameters(url)
    found.socket_timeout = seconds
    found.stack_timeout = seconds
    # A server that is out of memory or disk blocks its publishers: an error, not a hang.
    found.blocked_connection_timeout = seconds
    found.connection_attempts = 1
    found.client_properties = {"product": "formrelay"}
    return found


def address(found: pika.URLParameters) -> str:
    """Where it leads, without the password."""
    return f"{found.host}:{found.port}"


@contextmanager
def translated(where: str) -> Iterator[None]:
    """pika's errors as ours.

    Raises:
        BrokerUnavailable: no connection, or it was lost.
        BrokerRefused: wrong password, no permission, a queue declared otherwise,
            or a message that was not taken.
    """
    try:
        yield
    except (AuthenticationError, ProbableAuthenticationError):
        raise BrokerRefused(
            f"expected RabbitMQ at {where} to accept our user and password, it refused them: "
            "check RABBITMQ_URL"
        ) from None
    except ProbableAccessDeniedError:
        raise BrokerRefused(
            f"expected RabbitMQ at {where} to let our user into the virtual host, it refused: "
            "check the path of RABBITMQ_URL and the user's permissions"
        ) from None
    except ChannelClosedByBroker as error:
        raise BrokerRefused(f"RabbitMQ at {where} refused: {error.reply_text}") from None
    except UnroutableError:
        raise BrokerRefused(
            f"RabbitMQ at {where} has no queue for the message: was it deleted?"
        ) from None
    except NackError:
        raise BrokerRefused(f"RabbitMQ at {where} did not take the message (nack)") from None
    except (AMQPConnectionError, AMQPError, OSError) as error:
        raise BrokerUnavailable(
            f"expected RabbitMQ at {where} to answer, got {_cause(error)}; check that it runs "
            "and that RABBITMQ_URL is right"
        ) from None


def _cause(error: BaseException) -> str:
    for inner in (error, *error.args):
        exception = getattr(inner, "exception", inner)  # pika wraps what the socket said
        if isinstance(exception, OSError):
            return exception.strerror or type(exception).__name__
    text = str(error)
    return type(error).__name__ + (f": {text}" if text else "")
