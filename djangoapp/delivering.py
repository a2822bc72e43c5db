"""Messages on their way to a broker: ours, or another that the project has beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dramatiq
from dramatiq import Message

from ..brokers import RelayBroker
from ..core.clock import SYSTEM_CLOCK, to_millis
from ..core.errors import BrokerError


def send_all(broker: dramatiq.Broker, messages: Sequence[Message[Any]]) -> None:
    """Send messages, in order; to a broker of ours in one call.

    Raises:
        BrokerUnavailable, BrokerRefused: not all of them are on the broker.
    """
    if isinstance(broker, RelayBroker):
        broker.enqueue_many(messages)
        return
    for message in messages:
        eta = message.options.get("eta")
        if eta is None:
            broker.enqueue(message)
        else:  # another broker wants to be told, or a worker holds the message in its memory
            left = max(1, eta - to_millis(SYSTEM_CLOCK.time()))
            broker.enqueue(_without_eta(message), delay=left)


def send_all_committed(broker: dramatiq.Broker, messages: Sequence[Message[Any]]) -> None:
    """The same after a commit: the error says that the transaction stands.

    Raises:
        BrokerUnavailable, BrokerRefused: as :func:`send_all`.
    """
    try:
        send_all(broker, messages)
    except BrokerError as error:
        # Reworded, since some of these errors carry more than a message.
        error.reword(f"{_stands(messages)}: {error}")
        raise
    except Exception as error:  # of another broker: its own words, and ours beside them
        error.add_note(_stands(messages))
        raise


def _stands(messages: Sequence[Message[Any]]) -> str:
    names = [f"{one.actor_name} {one.message_id}" for one in messages[:5]]
    if len(messages) == 1:
        return f"the transaction is committed, but its job was not sent ({names[0]})"
    more = ", …" if len(messages) > len(names) else ""
    return (
        f"the transaction is committed, but not all of its {len(messages)} jobs were sent "
        f"({', '.join(names)}{more})"
    )


def _without_eta(message: Message[Any]) -> Message[Any]:
    options = {name: value for name, value in message.options.items() if name != "eta"}
    return Message(**{**message.asdict(), "options": options})
