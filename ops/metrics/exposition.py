"""Renders the metrics page from the counts of all processes and the sizes of the queues."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from ... import __version__
from ...core.durations import BIN_ENDS
from ...middleware.outcome_counts import BATCH_ENDS, OTHER_LABEL, OUTCOMES
from . import names
from .files import Machine
from .queues import QueueFigures

#: Every second bin of durations: 17 buckets from 1 ms to 57 minutes.
_BUCKET_STEP = 2
#: Maximum number of values of a label that comes from errors, of all processes together.
_MAX_ERROR_TYPES = 200
_FIRST_DURATION = len(OUTCOMES)


def render(machine: Machine, queues: QueueFigures, accept: str = "") -> tuple[bytes, str]:
    """Render the page.

    Args:
        accept: the header Accept, by which a client asks for OpenMetrics.

    Returns:
        The page, and its content type.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Metrics(machine, queues))
    encode, content_type = choose_encoder(accept)
    page: bytes = encode(registry)
    return page, content_type


class _Metrics(Collector):
    def __init__(self, machine: Machine, queues: QueueFigures) -> None:
        self._machine = machine
        self._queues = queues

    def describe(self) -> list[Metric]:
        """Return nothing: the registry is used once, so names cannot clash."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._jobs()
        yield from self._sinks()
        yield from _queue_metrics(self._queues)
        yield from self._processes()

    def _jobs(self) -> Iterator[Metric]:
        counts = self._machine.counts
        jobs, durations = _counter(names.JOBS), _histogram(names.JOB_DURATION)
        for (queue, actor), row in sorted(counts.get("jobs", {}).items()):
            for outcome, number in zip(OUTCOMES, row, strict=False):
                jobs.add_metric([queue, actor, outcome], number)
            _observe(durations, [queue, actor], row[_FIRST_DURATION:], BIN_ENDS)
        yield jobs
        yield durations
        for metric, kind in (
            (names.RETRIES, "retries"),
            (names.DEFERRALS, "deferrals"),
            (names.DEAD_LETTERS, "dead_letters"),
        ):
            family = _counter(metric)
            for labels, number in sorted(_bounded(counts.get(kind, {})).items()):
                family.add_metric(labels, number)
            yield family
        sizes = _histogram(names.BATCH_JOBS)
        for labels, row in sorted(counts.get("batches", {}).items()):
            _observe(sizes, labels, row, BATCH_ENDS, step=1)
        yield sizes
        lateness = _histogram(names.SCHEDULE_LATENESS)
        for labels, row in sorted(counts.get("lateness", {}).items()):
            _observe(lateness, labels, row, BIN_ENDS)
        yield lateness

    def _sinks(self) -> Iterator[Metric]:
        requests = _histogram(names.SINK_REQUEST_DURATION)
        for labels, row in sorted(self._machine.counts.get("requests", {}).items()):
            _observe(requests, labels, row, BIN_ENDS)
        yield requests
        paused = _gauge(names.SINK_PAUSED)
        states: dict[str, bool] = {}
        for process in self._machine.live:
            for sink, is_paused in process.paused.items():
                states[sink] = states.get(sink, False) or is_paused
        for sink, is_paused in sorted(states.items()):
            paused.add_metric([sink], is_paused)
        yield paused
        open_ = [process.breakers_open for process in self._machine.live]
        yield _value(names.WEBHOOK_BREAKERS_OPEN, max(open_, default=0))

    def _processes(self) -> Iterator[Metric]:
        machine = self._machine
        memory = [process.memory_bytes or 0 for process in machine.live]
        yield _value(names.WORKERS, len(machine.live))
        yield _total(names.WORKER_STARTS, machine.starts)
        yield _total(names.WORKER_CRASHES, machine.crashes)
        yield _total(names.WORKER_RECYCLES, machine.recycles)
        yield _value(names.WORKER_MEMORY, sum(memory))
        yield _value(names.WORKER_MEMORY_MAX, max(memory, default=0))
        ages = [process.age for process in machine.live]
        yield _value(names.WORKER_SNAPSHOT_AGE, max(ages, default=0.0))
        dropped = machine.counts.get("dropped_lines", {}).get((), [0])
        yield _total(names.LOG_LINES_DROPPED, dropped[0])
        info = _gauge(names.BUILD_INFO)
        here = (__version__, "", platform.python_version())
        kinds = {(each.version, each.broker, each.python) for each in machine.live} or {here}
        for labels in sorted(kinds):
            info.add_metric(labels, 1)
        yield info


def _queue_metrics(figures: QueueFigures) -> Iterator[Metric]:
    """The metrics from the broker, without the values that it does not provide."""
    jobs, oldest = _gauge(names.QUEUE_JOBS), _gauge(names.QUEUE_OLDEST)
    due_jobs, backlog = _gauge(names.QUEUE_DUE_JOBS), _gauge(names.QUEUE_BACKLOG_JOBS)
    due = figures.due or {}
    for each in figures.counts:
        states = {
            "waiting": each.waiting,
            "scheduled": each.scheduled,
            "in_flight": each.in_flight,
            "dead": each.dead,
        }
        for state, number in states.items():
            if number is not None:
                jobs.add_metric([each.queue, state], number)
        if each.oldest_age is not None:
            oldest.add_metric([each.queue], each.oldest_age.total_seconds())
        elif figures.due is not None:  # Redis: no job waits
            oldest.add_metric([each.queue], 0)
        is_due, is_soon = due.get(each.queue, (0, 0))
        if figures.due is not None:
            due_jobs.add_metric([each.queue], is_due)
        backlog.add_metric([each.queue], each.waiting + is_soon)
    yield from (jobs, oldest, due_jobs, backlog)
    scheduled = _gauge(names.SCHEDULED_JOBS)
    if figures.scheduled_in_all is not None:
        scheduled.add_metric([], figures.scheduled_in_all)
    yield scheduled
    is_up = _gauge(names.BROKER_UP)
    if figures.is_up is not None:
        is_up.add_metric([], figures.is_up)
    yield is_up


# -- families ------------------------------------------------------------------------------


def _counter(metric: names.Metric) -> CounterMetricFamily:
    return CounterMetricFamily(metric.full_name, metric.help, labels=metric.labels)


def _gauge(metric: names.Metric) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.full_name, metric.help, labels=metric.labels)


def _histogram(metric: names.Metric) -> HistogramMetricFamily:
    return HistogramMetricFamily(metric.full_name, metric.help, labels=metric.labels)


def _value(metric: names.Metric, value: float) -> GaugeMetricFamily:
    family = _gauge(metric)
    family.add_metric([], value)
    return family


def _total(metric: names.Metric, value: float) -> CounterMetricFamily:
    family = _counter(metric)
    family.add_metric([], value)
    return family


def _observe(
    family: HistogramMetricFamily,
    labels: Sequence[str],
    row: Sequence[float],
    ends: Sequence[float],
    *,
    step: int = _BUCKET_STEP,
) -> None:
    """Add a histogram from a row: the sum, then the number in each bin.

    Args:
        step: number of bins in a bucket.
    """
    total, *bins = row
    buckets, below = [], 0.0
    for number, (end, count) in enumerate(zip(ends, bins, strict=False)):
        below += count
        if number % step == 0:
            buckets.append((f"{end:g}", below))
    buckets.append(("+Inf", sum(bins)))
    family.add_metric(labels, buckets=buckets, sum_value=total)


def _bounded(rows: dict[tuple[str, ...], list[float]]) -> dict[tuple[str, ...], float]:
    """The first numbers of rows; the least frequent values of the last label are one value."""
    totals: dict[str, float] = {}
    for key, row in rows.items():
        totals[key[-1]] = totals.get(key[-1], 0) + row[0]
    kept = set(sorted(totals, key=lambda label: (-totals[label], label))[:_MAX_ERROR_TYPES])
    found: dict[tuple[str, ...], float] = {}
    for key, row in rows.items():
        bounded = key if key[-1] in kept else (*key[:-1], OTHER_LABEL)
        found[bounded] = found.get(bounded, 0) + row[0]
    return found
