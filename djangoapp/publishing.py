"""Sends messages to formrelay's broker, or to another Dramatiq broker of the project."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dramatiq
from dramatiq import Message

from ..brokers import RelayBroker
from ..brokers.envelope import without_options
from ..core.clock import SYSTEM_CLOCK, to_millis
from ..core.errors import BrokerError


def send_all(broker: dramatiq.Broker, messages: Sequence[Message[Any]]) -> None:
    """Send messages in order; in one call on formrelay's broker.

    Raises:
        BrokerUnavailable, BrokerRefused: the broker did not accept all messages.
    """
    if isinstance(broker, RelayBroker):
        broker.enqueue_many(messages)
        return
    for message in messages:
        eta = message.options.get("eta")
        if eta is None:
            broker.enqueue(message)
        else:  # other brokers need the delay, or a worker holds the message in memory
            left = max(1, eta - to_millis(SYSTEM_CLOCK.time()))
            broker.enqueue(without_options(message, "eta"), delay=left)


def send_all_committed(broker: dramatiq.Broker, messages: Sequence[Message[Any]]) -> None:
    """Send messages after a commit; errors say that the transaction is committed.

    Raises:
        BrokerUnavailable, BrokerRefused: as :func:`send_all`.
    """
    try:
        send_all(broker, messages)
    except BrokerError as error:
        # Changed in place, because some of these errors have attributes.
        error.reword(f"{_committed_text(messages)}: {error}")
        raise
    except Exception as error:  # from another broker: keep its message
        error.add_note(_committed_text(messages))
        raise


def _committed_text(messages: Sequence[Message[Any]]) -> str:
    names = [f"{message.actor_name} {message.message_id}" for message in messages[:5]]
    if len(messages) == 1:
        return f"the transaction is committed, but its job was not sent ({names[0]})"
    more = ", …" if len(messages) > len(names) else ""
    return (
        f"the transaction is committed, but not all of its {len(messages)} jobs were sent "
        f"({', '.join(names)}{more})"
    )
