"""The history of queues in the memory of this process."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from threading import Lock
from typing import NamedTuple

from ..core.clock import SYSTEM_CLOCK, Clock
from .history import (
    HOUR,
    MAX_FAILING_QUEUES,
    MAX_QUEUES,
    NO_TIME,
    OTHER,
    RESOLUTIONS,
    TEN_MINUTES,
    Point,
    Resolution,
    Tally,
    Window,
    clean_groups,
    limit_groups,
    sort_groups,
    sum_counts,
)


class _Bucket(NamedTuple):
    """Counts by queue, and error groups by queue."""

    tallies: dict[str, Tally]
    errors: dict[str, dict[str, int]]

    def add(self, queue: str, tally: Tally) -> None:
        without_errors = replace(tally, errors={})
        name = _fitting(self.tallies, queue, MAX_QUEUES)
        self.tallies.setdefault(name, Tally()).add(without_errors)
        if tally.errors:
            name = _fitting(self.errors, queue, MAX_FAILING_QUEUES)
            errors = sum_counts(self.errors.get(name, {}), clean_groups(tally.errors))
            self.errors[name] = limit_groups(errors)


def _fitting(known: Collection[str], queue: str, most: int) -> str:
    """The queue under which counts are stored."""
    return queue if queue in known or len(known) < most else OTHER


class MemoryHistory:
    """Counts of this process alone. Thread-safe."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        #: By resolution and the number of the bucket.
        self._buckets: dict[tuple[Resolution, int], _Bucket] = {}
        #: The number of the last call, by source; in practice, this process is the only source.
        self._numbers: dict[str, int] = {}

    def add(
        self,
        tallies: Mapping[str, Tally],
        *,
        age: timedelta = NO_TIME,
        source: str,
        number: int,
    ) -> None:
        if not tallies or age.total_seconds() >= TEN_MINUTES.keep:
            return
        with self._lock:
            if number <= self._numbers.get(source, -1):
                return
            self._numbers[source] = number
            now = self._clock.time()
            for resolution in RESOLUTIONS:
                if age.total_seconds() < resolution.keep:
                    at = int((now - age.total_seconds()) // resolution.step)
                    bucket = self._buckets.setdefault((resolution, at), _Bucket({}, {}))
                    for queue, tally in tallies.items():
                        bucket.add(queue, tally)
            for resolution, at in list(self._buckets):
                if (at + 1) * resolution.step + resolution.keep <= now:
                    del self._buckets[resolution, at]

    def read(
        self, queues: Collection[str] | None = None, span: timedelta = HOUR
    ) -> dict[str, list[Point]]:
        now = self._clock.time()
        window = Window.of(span, now)
        found: dict[str, dict[int, tuple[int, ...]]] = {queue: {} for queue in queues or ()}
        with self._lock:
            for number, bucket in self._in(window):
                for queue, tally in bucket.tallies.items():
                    if queues is None or queue in found:
                        found.setdefault(queue, {})[number] = tally.counts
        return {queue: window.points(tallies, now) for queue, tallies in found.items()}

    def errors(
        self, queues: Collection[str] | None = None, span: timedelta = HOUR
    ) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        with self._lock:
            for _, bucket in self._in(Window.of(span, self._clock.time())):
                for queue, errors in bucket.errors.items():
                    if queues is None or queue in queues:
                        found[queue] = sum_counts(found.get(queue, {}), errors)
        return {queue: sort_groups(errors) for queue, errors in found.items()}

    def _in(self, window: Window) -> Iterator[tuple[int, _Bucket]]:
        for number in range(window.first, window.last + 1):
            bucket = self._buckets.get((window.resolution, number))
            if bucket is not None:
                yield number, bucket
