"""Rates, durations and sparklines of all queues, read from the history every few seconds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from ...brokers import RelayBroker
from ...state import make_history
from ...state.history import Point, total
from .cached import Cached
from .sparklines import Sparkline, sparkline

#: The points of a queue, and their sparkline.
Drawn: TypeAlias = tuple[list[Point], Sparkline]

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
        last_success, last_failure: when an attempt succeeded or failed last, Unix seconds, to the
            minute in the last hour and to ten minutes before; None: not in the last day.
    """

    per_second: float
    error_rate: float | None
    p50: float | None
    p95: float | None
    hour: Sparkline
    day: Sparkline
    last_success: float | None = None
    last_failure: float | None = None


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
            queue: _figures(hours.get(queue, ([], _NO_HOUR)), days.get(queue, ([], _NO_DAY)))
            for queue in hours.keys() | days.keys()
        }


def _figures(hour: Drawn, day: Drawn) -> QueueFigures:
    (points, hour_line), (older, day_line) = hour, day
    whole, recent = total(points), total(points[-RATE_MINUTES:])
    attempts = [*older, *points]
    return QueueFigures(
        recent.per_second,
        whole.error_rate,
        whole.p50_s,
        whole.p95_s,
        hour_line,
        day_line,
        max((point.at for point in attempts if point.done), default=None),
        max((point.at for point in attempts if point.retried or point.dead), default=None),
    )


def _hours(broker: RelayBroker) -> dict[str, Drawn]:
    return _read(broker, _HOUR, bars=30, period="last hour")


def _days(broker: RelayBroker) -> dict[str, Drawn]:
    return _read(broker, _DAY, bars=48, period="last day")


def _read(broker: RelayBroker, span: timedelta, *, bars: int, period: str) -> dict[str, Drawn]:
    found = make_history(broker.state).read(span=span)
    return {
        queue: (points, sparkline(points, bars=bars, period=period))
        for queue, points in found.items()
    }
