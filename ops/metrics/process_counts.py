"""Reads the counts of this process from the parts that count."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import dramatiq

from ...core.log_writer import dropped_lines
from ...core.request_times import request_counts
from ...middleware.worker_report import throttles_of
from .snapshot import Counts


def process_counts(broker: dramatiq.Broker, queues: Collection[str] = ()) -> Counts:
    """Return all counts of this process, by kind.

    The kinds of :meth:`.OutcomeCounts.totals`, ``requests`` by sink and result (the sum and the
    bins of the durations), and ``dropped_lines``.

    Args:
        queues: queues whose actors are counted as zero before their first message.
    """
    with_recorder: Any = broker
    counts: Counts = dict(with_recorder.history_recorder.totals(queues))
    counts["requests"] = request_counts()
    counts["dropped_lines"] = {(): [dropped_lines()]}
    return counts


def sink_breakers(workers: Iterable[dramatiq.Worker]) -> dict[str, bool]:
    """Return whether the breaker of each sink of the workers' actors is open or half-open."""
    found: dict[str, bool] = {}
    for each in throttles_of(workers):
        found[each.sink] = found.get(each.sink, False) or each.is_failing
    return found


def open_breakers() -> int:
    """Number of webhook endpoints whose circuit breaker is open or half-open in this process."""
    from ...actors.webhooks.resources import registry_sync

    return sum(sync.limiter.open_breakers() for sync in registry_sync.made)
