"""The history of queues: outcomes, durations and errors of each queue in buckets of time.

A bucket covers one minute and is kept for two hours, or ten minutes and is kept for two days. Every
few seconds, workers add their counts to the buckets of the time at which they counted. That time is
by the store's clock: a worker only says how many seconds ago it counted, so the clocks of machines
may differ.

Durations are counted in a histogram whose bins are the same in every version, so that the counts of
many workers can be added, and quantiles estimated from the sum.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import zip_longest
from typing import NamedTuple, Protocol

from ..core.durations import BIN_COUNT, BIN_ENDS

#: Name for all queues, or all error groups, beyond the maximum number. No queue can have this name.
OTHER = "(other)"
#: Maximum number of error groups of a queue in a bucket.
MAX_GROUPS = 20
#: Maximum number of queues in a bucket, and of queues whose errors are counted by group.
MAX_QUEUES, MAX_FAILING_QUEUES = 1000, 100
#: Maximum length of the name of an error group.
MAX_GROUP = 80

NO_TIME, HOUR = timedelta(0), timedelta(hours=1)


class Resolution(NamedTuple):
    """The length of buckets, and how long they are kept, in seconds."""

    step: int
    keep: int


MINUTES = Resolution(60, 2 * 3600)
TEN_MINUTES = Resolution(600, 48 * 3600)
RESOLUTIONS = (MINUTES, TEN_MINUTES)


@dataclass(slots=True)
class Tally:
    """Counts of one queue.

    Attributes:
        done: number of messages that succeeded.
        retried: number of failed attempts that are retried.
        dead: number of messages that were dead-lettered.
        deferred: number of messages that were deferred, which is not an attempt.
        durations: number of attempts in each bin of durations (:func:`duration_bin`).
        errors: number of failed attempts, retried or dead, by error group
            (:func:`~formrelay.core.error_groups.group_id`).
    """

    done: int = 0
    retried: int = 0
    dead: int = 0
    deferred: int = 0
    durations: list[int] = field(default_factory=lambda: [0] * BIN_COUNT)
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> tuple[int, ...]:
        """The outcomes in the order above, then the durations without the zeros at the end."""
        return self.done, self.retried, self.dead, self.deferred, *trim(self.durations)

    def add(self, other: Tally) -> None:
        """Add the counts of ``other``; keep the most frequent :data:`MAX_GROUPS` error groups."""
        self.done += other.done
        self.retried += other.retried
        self.dead += other.dead
        self.deferred += other.deferred
        self.durations = sum_bins([self.durations, other.durations])
        if other.errors:
            self.errors = limit_groups(sum_counts(self.errors, other.errors))


class Point(NamedTuple):
    """What happened to the messages of a queue in one bucket, or in several (:func:`total`).

    Attributes:
        at: begin, Unix seconds.
        seconds: the time that it covers: the newest bucket has only just begun.
        done, retried, dead, deferred: as of :class:`Tally`.
        durations: as of :class:`Tally`, without the zeros at the end.
    """

    at: float
    seconds: float
    done: int = 0
    retried: int = 0
    dead: int = 0
    deferred: int = 0
    durations: tuple[int, ...] = ()

    @property
    def attempts(self) -> int:
        """Number of attempts: done, retried and dead."""
        return self.done + self.retried + self.dead

    @property
    def per_second(self) -> float:
        """Number of attempts in a second."""
        return self.attempts / self.seconds if self.seconds else 0.0

    @property
    def error_rate(self) -> float | None:
        """Share of the attempts that failed, 0 to 1; None without attempts."""
        attempts = self.attempts
        return (self.retried + self.dead) / attempts if attempts else None

    @property
    def p50_s(self) -> float | None:
        """Median of the durations in seconds, estimated; None without attempts."""
        return quantile(self.durations, 0.5)

    @property
    def p95_s(self) -> float | None:
        """Duration in seconds that 95 % of the attempts did not exceed, estimated."""
        return quantile(self.durations, 0.95)


class History(Protocol):
    """Counts of all workers by queue and time. Each call is atomic. Counts expire.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: the store failed.
    """

    def add(
        self,
        tallies: Mapping[str, Tally],
        *,
        age: timedelta = NO_TIME,
        source: str,
        number: int,
    ) -> None:
        """Add counts.

        Args:
            tallies: by queue.
            age: how long ago they were counted.
            source: random id of the process that counted.
            number: number of this call, greater than that of the process's call before. A call
                that is repeated with its number within an hour, because its answer was lost,
                counts once.
        """

    def read(
        self, queues: Collection[str] | None = None, span: timedelta = HOUR
    ) -> dict[str, list[Point]]:
        """Return what happened in the last ``span``, for each queue.

        Each list has a point for every bucket, the oldest first, also for a bucket without counts.
        The last point covers the present. A point covers a minute if ``span`` is at most two hours,
        otherwise ten minutes.

        Args:
            queues: None: every queue that has counts.
            span: at most two days are returned.
        """

    def errors(
        self, queues: Collection[str] | None = None, span: timedelta = HOUR
    ) -> dict[str, dict[str, int]]:
        """Return how many attempts failed in the last ``span``, by queue and error group.

        The most frequent group is first. Groups beyond the :data:`MAX_GROUPS` most frequent of a
        bucket are counted as :data:`OTHER`. Queues without errors are absent.

        Args:
            queues, span: as of :meth:`read`.
        """


def duration_bin(seconds: float) -> int:
    """Return the index of the bin of a duration."""
    return bisect_left(BIN_ENDS, seconds)


def quantile(durations: Sequence[int], share: float) -> float | None:
    """Estimate a quantile in seconds from counts by bin; None without counts.

    Assumes that durations are spread evenly within a bin, so the error is at most the width of the
    bin. A duration beyond the last end is estimated as that end.

    Args:
        share: 0 to 1.
    """
    rank = share * sum(durations)
    below = 0
    for number, count in enumerate(durations):
        if count and below + count >= rank:
            if number == len(BIN_ENDS):
                return BIN_ENDS[-1]
            low = BIN_ENDS[number - 1] if number else 0.0
            return low + (BIN_ENDS[number] - low) * (rank - below) / count
        below += count
    return None


def total(points: Iterable[Point]) -> Point:
    """Add up points, such as those of an hour."""
    found = list(points)
    return Point(
        at=found[0].at if found else 0.0,
        seconds=sum(point.seconds for point in found),
        done=sum(point.done for point in found),
        retried=sum(point.retried for point in found),
        dead=sum(point.dead for point in found),
        deferred=sum(point.deferred for point in found),
        durations=tuple(sum_bins([point.durations for point in found])),
    )


def sum_bins(durations: Iterable[Sequence[int]]) -> list[int]:
    """Add up counts by bin."""
    return [sum(counts) for counts in zip_longest(*durations, fillvalue=0)]


def trim(durations: Sequence[int]) -> tuple[int, ...]:
    """Remove the zeros at the end."""
    end = len(durations)
    while end and not durations[end - 1]:
        end -= 1
    return tuple(durations[:end])


def sum_counts(*counts: Mapping[str, int]) -> dict[str, int]:
    """Add up counts by name."""
    found: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            found[name] = found.get(name, 0) + count
    return found


def limit_groups(errors: dict[str, int]) -> dict[str, int]:
    """Keep the most frequent :data:`MAX_GROUPS` error groups; add up the others as ``OTHER``."""
    if len(errors) <= MAX_GROUPS:
        return errors
    groups = [group for group in errors if group != OTHER]
    if len(groups) <= MAX_GROUPS:
        return errors
    groups.sort(key=lambda group: (-errors[group], group.encode()))
    kept = {group: errors[group] for group in groups[:MAX_GROUPS]}
    left = sum(errors[group] for group in groups[MAX_GROUPS:])
    return kept | {OTHER: left + errors.get(OTHER, 0)}


def clean_groups(errors: Mapping[str, int]) -> dict[str, int]:
    """Shorten the names of error groups and remove their spaces, as the stores need it."""
    found: dict[str, int] = {}
    for group, count in errors.items():
        name = "_".join(group.split())[:MAX_GROUP] or OTHER
        found[name] = found.get(name, 0) + count
    return found


class Window(NamedTuple):
    """The buckets to read: their resolution, and the numbers of the first and the last bucket."""

    resolution: Resolution
    first: int
    last: int

    @classmethod
    def of(cls, span: timedelta, now: float) -> Window:
        """The buckets of the last ``span``, the present bucket included."""
        seconds = span.total_seconds()
        resolution = MINUTES if seconds <= MINUTES.keep else TEN_MINUTES
        count = max(1, int(min(seconds, resolution.keep) // resolution.step))
        last = int(now // resolution.step)
        return cls(resolution, last - count + 1, last)

    def points(self, found: Mapping[int, tuple[int, ...]], now: float) -> list[Point]:
        """Return a point for every bucket.

        Args:
            found: counts by the number of the bucket, in the order of :attr:`Tally.counts`.
            now: Unix time in seconds, by the store's clock.
        """
        step, last = self.resolution.step, self.last
        points = []
        for number in range(self.first, last + 1):
            at = float(number * step)
            seconds = float(step) if number < last else max(0.0, now - at)
            done, retried, dead, deferred, *durations = found.get(number, (0, 0, 0, 0))
            points.append(Point(at, seconds, done, retried, dead, deferred, tuple(durations)))
        return points


def sort_groups(errors: Mapping[str, int]) -> dict[str, int]:
    """Sort error groups, the most frequent first, :data:`OTHER` last."""
    order = sorted(errors, key=lambda group: (group == OTHER, -errors[group], group))
    return {group: errors[group] for group in order}
