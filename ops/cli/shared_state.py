"""The store that worker processes share, for commands that read or change it."""

from __future__ import annotations

from ...brokers import get_broker
from ...core.errors import FormrelayError
from ...state import StateRedis


class NoSharedState(FormrelayError):
    """Expected a store that all processes share, got none: set STATE_URL to a Redis URL."""


def shared_state() -> StateRedis:
    """The shared store.

    Raises:
        NoSharedState: there is none.
    """
    state = get_broker().state
    if state is None:
        raise NoSharedState
    return state
