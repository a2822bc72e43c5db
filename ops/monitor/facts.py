"""The facts that rules look at. None stands for a fact that could not be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...actors.webhooks.registry import EndpointRecord
from ...state.worker_reports import WorkerReport


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """A queue.

    Attributes:
        scheduled: number of scheduled jobs; None if the broker cannot count them.
        oldest_seconds: age of the oldest waiting job; None if none waits or it is not known.
        has_worker: whether a live worker consumes it; None if that is not known.
        late_seconds: how long the first scheduled job has been due; 0 if it is not due, None if
            that is not known.
    """

    queue: str
    waiting: int
    scheduled: int | None = None
    dead: int = 0
    paused: bool = False
    oldest_seconds: float | None = None
    has_worker: bool | None = None
    late_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """Attempts of a queue in the last minutes (``ALERT_WINDOW_SECONDS``).

    Attributes:
        failed: number of attempts that failed, ``dead`` included.
        dead: number of messages that were dead-lettered.
    """

    attempts: int
    failed: int
    dead: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of one look.

    Attributes:
        broker: why the broker cannot be used; empty if it can.
        broker_kind: ``redis``, ``rabbitmq`` or ``embedded``.
        new_dead: by queue, by how many the dead letters have grown in the window.
        sinks: by name, why a sink cannot be reached; empty if it can. Sinks that were not tried
            are absent.
        connections: the causes of paused connections to Google accounts, by id.
        clocks: by host or server, how many seconds its clock is ahead of the store's.
        receivers: by name, how many seconds a receiver of alerts has not taken an alert.
        problems: by part, why its facts could not be read, although the broker works.
    """

    broker: str | None = None
    broker_kind: str = ""
    queues: Sequence[QueueFacts] | None = None
    rates: Mapping[str, Rate] | None = None
    new_dead: Mapping[str, int] = field(default_factory=dict)
    workers: Sequence[WorkerReport] | None = None
    sinks: Mapping[str, str] | None = None
    endpoints: Sequence[EndpointRecord] | None = None
    connections: Mapping[str, str] | None = None
    clocks: Mapping[str, float] | None = None
    receivers: Mapping[str, float] | None = None
    problems: Mapping[str, str] = field(default_factory=dict)

    def with_new_dead(self, grown: Mapping[str, int]) -> Facts:
        """Return the same facts with :attr:`new_dead`."""
        return replace(self, new_dead=grown)
