"""Rates, durations and sparklines of all queues, read from the history every few seconds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from ...brokers import RelayBroker
from ...state import make_history
from ...state.history import Point, total
from .cached import Cached
from .sparklines import Sparkline, sparkline

_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
#: Seconds for which the figures of the last hour and of the last day are cached.
_CACHE_HOUR, _CACHE_DAY = 4.0, 60.0
#: Number of minutes over which the jobs per second are averaged.
RATE_MINUTES = 5
_NO_HOUR = sparkline([], bars=1, period="last hour")
_NO_DAY = sparkline([], bars=1, period="last day")


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """Rates and durations of a queue.

    Attributes:
        per_second: attempts per second, averaged over :data:`RATE_MINUTES`.
        error_rate: share of the attempts of the last hour that failed, 0 to 1; None: no attempt.
        p50, p95: quantiles of the durations in the last hour, seconds; None: no attempt.
    """

    per_second: float
    error_rate: float | None
    p50: float | None
    p95: float | None
    hour: Sparkline
    day: Sparkline


#: The figures of a queue without attempts.
NO_ATTEMPTS = QueueFigures(0.0, None, None, None, _NO_HOUR, _NO_DAY)


class Figures:
    """The figures of all queues, from the history in the shared store."""

    def __init__(self) -> None:
        self._hours = Cached(_hours, _CACHE_HOUR)
        self._days = Cached(_days, _CACHE_DAY)

    def of(self, broker: RelayBroker) -> dict[str, QueueFigures] | None:
        """Return the figures by queue; None without a shared store.

        Raises:
            BrokerError: the store failed.
        """
        if broker.state is None:
            return None
        hours, days = self._hours.get(broker), self._days.get(broker)
        return {
            queue: _figures(*hours.get(queue, ([], _NO_HOUR)), days.get(queue, _NO_DAY))
            for queue in hours.keys() | days.keys()
        }


def _figures(points: list[Point], hour: Sparkline, day: Sparkline) -> QueueFigures:
    whole = total(points)
    recent = total(points[-RATE_MINUTES:])
    return QueueFigures(recent.per_second, whole.error_rate, whole.p50_s, whole.p95_s, hour, day)


def _hours(broker: RelayBroker) -> dict[str, tuple[list[Point], Sparkline]]:
    found = make_history(broker.state).read(span=_HOUR)
    return {
        queue: (points, sparkline(points, bars=30, period="last hour"))
        for queue, points in found.items()
    }


def _days(broker: RelayBroker) -> dict[str, Sparkline]:
    found = make_history(broker.state).read(span=_DAY)
    return {queue: sparkline(points, bars=48, period="last day") for queue, points in found.items()}
