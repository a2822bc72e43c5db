"""The middleware of every formrelay broker, in order.

Dramatiq calls ``before_…`` hooks from first to last and ``after_…`` hooks from last to first. So
read the list downwards for what happens before the actor runs, and upwards for after.
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

from ..core.clock import SYSTEM_CLOCK, Clock
from .admission import Admission
from .attempts import Attempts
from .contexts import Contexts
from .delivery import Batch, Delivery
from .exhausted import RetryExhausted
from .history import HistoryRecorder
from .idempotency import Idempotency
from .outcomes import Outcomes, rejected
from .policies import policy_of
from .process_tuning import ProcessTuning
from .sentry_events import SentryEvents
from .throttling import Throttling
from .tracing import Tracing
from .work_queue import WorkQueues

__all__ = [
    "OF_THE_THREAD",
    "Batch",
    "Delivery",
    "HistoryRecorder",
    "Idempotency",
    "RetryExhausted",
    "Throttling",
    "default_middleware",
    "policy_of",
    "rejected",
]

#: Middleware that keeps state for each worker thread and interrupts the thread. In the event loop,
#: :mod:`formrelay.brokers.async_runner` interrupts attempts instead.
OF_THE_THREAD = (ShutdownNotifications, TimeLimit)


def default_middleware(
    outcomes: Outcomes, history: HistoryRecorder, clock: Clock = SYSTEM_CLOCK
) -> list[Middleware]:
    """The middleware of every formrelay broker, in order."""
    return [
        ProcessTuning(),  # garbage collector and malloc of worker processes
        WorkQueues(),  # hands several short jobs to a thread at once
        history,  # adds counts of settled messages to the history, and reports what runs
        Contexts(),  # runs each attempt in its own contextvars context
        SentryEvents(),  # takes payload values out of Sentry's events
        Attempts(),  # logs one line an attempt; early, so that the outcome is known
        AgeLimit(),  # stock: max_age
        TimeLimit(),  # stock: time_limit, ten minutes by default
        ShutdownNotifications(),  # stock: notify_shutdown
        Callbacks(),  # stock: on_success, on_failure
        Pipelines(),  # stock: pipelines
        RetryExhausted(),  # on_retry_exhausted
        CurrentMessage(),  # stock: gives an actor its message
        Throttling(),  # admit: defers messages while the sink is unavailable
        Idempotency(clock=clock),  # admit: one job for each idempotency key
        Admission(history.running, history.count_start),  # admit: starts the attempt
        Tracing(),  # a span for the attempt, if OpenTelemetry is set up
        outcomes,  # classify: its hook after an attempt runs first, wherever it stands
    ]
