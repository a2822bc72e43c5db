"""What workers did: outcomes, durations and errors of each queue, in buckets of time.

A bucket covers a minute, for two hours, or ten minutes, for two days. Workers add what they have
counted in the last seconds. A count is stored in the bucket of the time at which it was counted, by
the clock of the store: the worker says only how long ago that was, so that clocks of machines that
differ do not matter.

Durations are counted in classes, the same in every version, so that the counts of many workers add
up, and quantiles can be estimated from the sum.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import zip_longest
from typing import NamedTuple, Protocol

#: Upper ends of the classes of durations in seconds: 1 ms to 1.5 h, each 1.6 times the end before.
#: A longer duration is in the class after the last. Never change them: stored counts name a class
#: by its index.
CLASSES = tuple(round(0.001 * 1.6**number, 6) for number in range(34))
#: Number of classes, with that of longer durations.
CLASS_COUNT = len(CLASSES) + 1
#: Stands for the queues and the error groups beyond the maximum number. No queue has such a name.
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
        durations: number of attempts in each class of durations (:func:`duration_class`).
        errors: number of failed attempts, retried or dead, by error group
            (:func:`~formrelay.core.error_groups.group_id`).
    """

    done: int = 0
    retried: int = 0
    dead: int = 0
    deferred: int = 0
    durations: list[int] = field(default_factory=lambda: [0] * CLASS_COUNT)
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> tuple[int, ...]:
        """The outcomes in the order above, then the durations without the zeros at the end."""
        return self.done, self.retried, self.dead, self.deferred, *trimmed(self.durations)

    def add(self, other: Tally) -> None:
        """Add the counts of ``other``. Keeps the most frequent :data:`MAX_GROUPS` error groups."""
        self.done += other.done
        self.retried += other.retried
        self.dead += other.dead
        self.deferred += other.deferred
        self.durations = added([self.durations, other.durations])
        if other.errors:
            self.errors = limited(summed(self.errors, other.errors))


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

        Each list has a point for every bucket, the oldest first, also if nothing happened. The
        last point is that of now. Up to two hours, a point is a minute, otherwise ten minutes.

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


def duration_class(seconds: float) -> int:
    """The class of a duration: its index in :data:`CLASSES`, or one more than the last."""
    return bisect_left(CLASSES, seconds)


def quantile(durations: Sequence[int], share: float) -> float | None:
    """Estimate a quantile in seconds from counts by class; None without counts.

    Durations are taken to be spread evenly within a class, so the error is at most its width. A
    duration beyond the last class is estimated as the end of that class.

    Args:
        share: 0 to 1.
    """
    rank = share * sum(durations)
    below = 0
    for number, count in enumerate(durations):
        if count and below + count >= rank:
            if number == len(CLASSES):
                return CLASSES[-1]
            low = CLASSES[number - 1] if number else 0.0
            return low + (CLASSES[number] - low) * (rank - below) / count
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
        durations=tuple(added([point.durations for point in found])),
    )


def added(durations: Iterable[Sequence[int]]) -> list[int]:
    """Add up counts by class."""
    return [sum(counts) for counts in zip_longest(*durations, fillvalue=0)]


def trimmed(durations: Sequence[int]) -> tuple[int, ...]:
    """Remove the zeros at the end."""
    end = len(durations)
    while end and not durations[end - 1]:
        end -= 1
    return tuple(durations[:end])


def summed(*counts: Mapping[str, int]) -> dict[str, int]:
    """Add up counts by name."""
    found: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            found[name] = found.get(name, 0) + count
    return found


def limited(errors: dict[str, int]) -> dict[str, int]:
    """Keep the most frequent :data:`MAX_GROUPS` error groups; count the other ones together."""
    if len(errors) <= MAX_GROUPS:
        return errors
    groups = [group for group in errors if group != OTHER]
    if len(groups) <= MAX_GROUPS:
        return errors
    groups.sort(key=lambda group: (-errors[group], group.encode()))
    kept = {group: errors[group] for group in groups[:MAX_GROUPS]}
    left = sum(errors[group] for group in groups[MAX_GROUPS:])
    return kept | {OTHER: left + errors.get(OTHER, 0)}


def sanitized(errors: Mapping[str, int]) -> dict[str, int]:
    """Shorten the names of error groups and remove their spaces, as the stores need it."""
    found: dict[str, int] = {}
    for group, count in errors.items():
        name = "_".join(group.split())[:MAX_GROUP] or OTHER
        found[name] = found.get(name, 0) + count
    return found


class Window(NamedTuple):
    """The buckets that a reader wants: their resolution, and the number of the first and last."""

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
            found: by the number of the bucket, the counts of a point without times, in order.
            now: Unix time in seconds, by the store's clock.
        """
        step, last = self.resolution.step, self.last
        points = []
        for number in range(self.first, last + 1):
            at = float(number * step)
            seconds = float(step) if number < last else max(0.0, now - at)
            its = found.get(number)
            points.append(
                Point(at, seconds)
                if its is None
                else Point(at, seconds, its[0], its[1], its[2], its[3], its[4:])
            )
        return points


def most_frequent(errors: Mapping[str, int]) -> dict[str, int]:
    """Sort error groups, the most frequent first, :data:`OTHER` last."""
    order = sorted(errors, key=lambda group: (group == OTHER, -errors[group], group))
    return {group: errors[group] for group in order}
