"""The way of a message through the middleware, in one list.

Dramatiq calls ``before_…`` hooks from first to last and ``after_…`` hooks from
last to first, so the list reads downwards before the actor runs and upwards
after it did.
"""

from __future__ import annotations

from dramatiq.middleware import (
    AgeLimit,
    Callbacks,
    CurrentMessage,
    Middleware,
    Pipelines,
    ShutdownNotifications,
    TimeLimit,
)

from .admission import Admission
from .attempts import Attempts
from .contexts import Contexts
from .delivery import Batch, Delivery
from .idempotency import Idempotency
from .outcomes import Outcomes, rejected
from .policies import policy_of
from .throttling import Throttling

__all__ = [
    "OF_THE_THREAD",
    "Batch",
    "Delivery",
    "default_middleware",
    "policy_of",
    "rejected",
]

#: Middleware that keeps something for each worker thread, and interrupts it. Attempts in the event
#: loop are interrupted by :mod:`formrelay.brokers.async_runner`.
OF_THE_THREAD = (ShutdownNotifications, TimeLimit)


def default_middleware() -> list[Middleware]:
    """The middleware of every formrelay broker, in order."""
    return [
        Contexts(),  # each attempt in a contextvars context of its own
        Attempts(),  # one log line an attempt; before all others, so that it speaks last
        AgeLimit(),  # stock: max_age
        TimeLimit(),  # stock: time_limit, ten minutes where nothing is said
        ShutdownNotifications(),  # stock: notify_shutdown
        Callbacks(),  # stock: on_success, on_failure
        Pipelines(),  # stock: pipelines
        CurrentMessage(),  # stock: an actor may ask which message it works on
        Throttling(),  # admit: not while the sink is to be left alone
        Idempotency(),  # admit: not while a job of the same key runs, nor after it has
        Admission(),  # admit: the last check before the actor
        Outcomes(),  # classify: last, so that its verdict comes first
    ]
