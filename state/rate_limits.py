"""Rate limits that all workers share: an e-mail account, a domain, a Google project, a user.

A limit is a bucket that refills evenly (GCRA, the generic cell rate algorithm): a key stores one
time, at which its bucket will be full again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from typing import Protocol

from ..core.clock import SYSTEM_CLOCK, Clock
from ..core.errors import ConfigError

#: Maximum time for which a key is closed, whatever a server asks for.
LONGEST_CLOSURE = timedelta(days=1)
#: How long it is remembered who took: longer than a job is retried.
KEEP_ONCE = timedelta(days=3)
#: How late a booked turn may be used. Later, its place has passed, and another is needed.
LATE = timedelta(seconds=60)
NO_BOOKING = timedelta(0)
_LONGEST = timedelta(days=3660)
_MICROSECOND = timedelta(microseconds=1)
#: Number of calls between two searches for buckets in memory that are full again.
_SWEEP = 1_000


class CostTooHigh(ConfigError, ValueError):
    """A limit can never be taken at this cost: its bucket is smaller."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A rate: ``number`` per ``per``, of which ``burst`` may come at once.

    In any time of length ``per``, at most ``number + burst - 1`` are taken: a full bucket, and its
    refill. For a quota that somebody else counts, use :meth:`at_most`.

    Args:
        number: how many the bucket gets in ``per``, at least 1.
        per: at most ten years, and at least a microsecond for each of ``number``.
        burst: size of the bucket; default: ``number``.

    Raises:
        ConfigError: an argument is out of range.
    """

    number: int
    per: timedelta
    burst: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("number", self.number), ("burst", self.capacity)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"expected the {name} of a rate limit to be 1 or more: {value!r}")
        if not isinstance(self.per, timedelta) or not timedelta(0) < self.per <= _LONGEST:
            raise ConfigError(
                "expected the period of a rate limit to be a timedelta of up to ten years, got "
                f"{self.per!r}"
            )
        if self.number > self.per // _MICROSECOND:
            raise ConfigError(
                "expected a rate limit of at most 1,000,000 a second, got "
                f"{self.number} in {self.per.total_seconds():g} s"
            )
        if self.interval * self.capacity > _LONGEST // _MICROSECOND:
            raise ConfigError(
                "expected the bucket of a rate limit to refill within ten years, got a burst of "
                f"{self.capacity} at {self.number} in {self.per.total_seconds():g} s"
            )

    @classmethod
    def at_most(cls, quota: int, per: timedelta, *, burst: int | None = None) -> Limit:
        """Make a limit that never takes more than ``quota`` in any time of length ``per``.

        Args:
            burst: how many may come at once, at most ``quota``; default: a tenth of it.
        """
        size = max(1, quota // 10) if burst is None else burst
        return cls(quota - size + 1, per, size)

    @property
    def capacity(self) -> int:
        """Size of the bucket, which is the largest cost that can be taken."""
        return self.number if self.burst is None else self.burst

    @property
    def interval(self) -> int:
        """Microseconds in which the bucket gets one back, rounded up: never faster than asked."""
        return -(-(self.per // _MICROSECOND) // self.number)


class RateLimits(Protocol):
    """Rate limits by key. Each call is atomic. Unused keys expire.

    A key is any text; the shared store has its digest only.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: the store failed.
    """

    def take(
        self,
        wanted: Sequence[tuple[str, Limit | None]],
        cost: int | Sequence[int] = 1,
        *,
        once: str | None = None,
        book: timedelta = NO_BOOKING,
    ) -> timedelta | None:
        """Take from all keys or from none.

        Without ``once``, a repetition after a lost answer may take twice, never less than once.

        Args:
            wanted: keys with their limits; None asks only whether the key is closed.
            cost: how many are taken from every key; or a number for each, in their order.
            once: who takes, such as a job and one of its recipients: whoever has taken within
                :data:`KEEP_ONCE` does not take again (a retried job), and waits for closed keys
                only. Calls with other keys need another ``once``.
            book: if it cannot be taken now, book a turn that comes within this time: it is taken
                in advance, and the same ``once`` gets it after the returned wait, at most
                :data:`LATE` later. Turns come in the order of their bookings, and after a closure.
                Needs ``once`` and a limit; a key that is only closed has no turns.

        Returns:
            None if they were taken; otherwise the time after which they can be taken, unless
            others take them first.

        Raises:
            CostTooHigh: a cost is greater than the capacity of its limit.
            ValueError: a cost is less than 1, or a key occurs twice.
        """

    def close_until(self, key: str, after: timedelta) -> None:
        """Close a key from now for ``after``, at most a day; never shortens a closure."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key with its limit and cost, checked. ``interval`` is 0 without a limit."""

    key: str
    interval: int
    capacity: int
    cost: int


def check_wanted(
    wanted: Sequence[tuple[str, Limit | None]], cost: int | Sequence[int]
) -> list[Wanted]:
    """Check the arguments of :meth:`RateLimits.take`.

    Raises:
        CostTooHigh, ValueError: as ``take``. The key is not quoted, since it may be an address.
    """
    costs = [cost] * len(wanted) if isinstance(cost, int) else list(cost)
    if len(costs) != len(wanted):
        raise ValueError(f"expected a cost for each of {len(wanted)} keys, got {len(costs)}")
    if len({key for key, _ in wanted}) != len(wanted):
        raise ValueError("expected different keys, got a key twice: add up its costs")
    found = []
    for (key, limit), each in zip(wanted, costs, strict=True):
        if each < 1:
            raise ValueError(f"expected a cost of 1 or more, got {each}")
        if limit is None:
            found.append(Wanted(key, 0, 0, each))
            continue
        if each > limit.capacity:
            raise CostTooHigh(
                f"expected a cost of at most {limit.capacity} (the limit is {limit.number} in "
                f"{limit.per.total_seconds():g} s, {limit.capacity} at once), got {each}, which "
                "would never be free: take less at once, or raise the limit"
            )
        found.append(Wanted(key, limit.interval, limit.capacity, each))
    return found


def closure(after: timedelta) -> int:
    """Microseconds for which a key is closed."""
    return max(0, min(after, LONGEST_CLOSURE) // _MICROSECOND)


@dataclass(frozen=True, slots=True)
class _Bucket:
    full_at: int = 0
    interval: int = 0
    closed_until: int = 0


class MemoryRateLimits:
    """Rate limits of this process alone. Thread-safe."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        self._buckets: dict[str, _Bucket] = {}
        #: When it is forgotten who took, and the time of a booked turn, otherwise 0.
        self._taken: dict[str, tuple[int, int]] = {}
        self._calls = 0

    def take(
        self,
        wanted: Sequence[tuple[str, Limit | None]],
        cost: int | Sequence[int] = 1,
        *,
        once: str | None = None,
        book: timedelta = NO_BOOKING,
    ) -> timedelta | None:
        checked = check_wanted(wanted, cost)
        longest = book // _MICROSECOND
        with self._lock:
            now, wait, debt = self._now(), 0, 0
            self._sweep(now)
            ends, turn = self._taken.get(once or "", (0, 0))
            has_taken = once is not None and ends > now
            has_turn = has_taken and turn > 0 and now <= turn + LATE // _MICROSECOND
            if has_turn:
                wait = max(0, turn - now)
            if has_turn or (has_taken and not turn):
                checked = [Wanted(each.key, 0, 0, 1) for each in checked]
            taken: dict[str, _Bucket] = {}
            clamped: dict[str, _Bucket] = {}
            for each in checked:
                bucket = self._buckets.get(each.key, _Bucket())
                wait = max(wait, bucket.closed_until - now)
                if each.interval:
                    start = max(now, bucket.closed_until) if longest else now
                    used = _used(bucket, each, start, longest)
                    if used > 0:
                        kept = _Bucket(start + used, each.interval, bucket.closed_until)
                        clamped[each.key] = kept
                    used += each.cost * each.interval
                    over = used - each.capacity * each.interval
                    debt, wait = max(debt, over), max(wait, start - now + over)
                    taken[each.key] = _Bucket(start + used, each.interval, bucket.closed_until)
            keep = now + KEEP_ONCE // _MICROSECOND
            if wait > 0:
                if taken and longest and once is not None and debt <= longest:
                    self._buckets |= taken
                    self._taken[once] = (keep, now + wait)
                else:
                    # With a lower limit, the time that passes would otherwise not shorten the wait.
                    self._buckets |= clamped
                return timedelta(microseconds=wait)
            self._buckets |= taken
            if once is not None and (taken or has_turn):
                self._taken[once] = (keep, 0)
            return None

    def close_until(self, key: str, after: timedelta) -> None:
        with self._lock:
            now, old = self._now(), self._buckets.get(key, _Bucket())
            until = max(old.closed_until, now + closure(after))
            self._buckets[key] = _Bucket(old.full_at, old.interval, until)

    def _now(self) -> int:
        return int(self._clock.monotonic() * 1_000_000)

    def _sweep(self, now: int) -> None:
        """Remove buckets that are full and open, now and then."""
        self._calls += 1
        if self._calls % _SWEEP == 0:
            self._taken = {once: each for once, each in self._taken.items() if each[0] > now}
            self._buckets = {
                key: each
                for key, each in self._buckets.items()
                if max(each.full_at, each.closed_until) > now
            }


def _used(bucket: _Bucket, wanted: Wanted, now: int, longest: int) -> int:
    """What is missing in the bucket, in microseconds of refill, with turns for ``longest``."""
    used = max(0, bucket.full_at - now)
    if bucket.interval not in (0, wanted.interval):  # the limit has changed: the same number
        used = -(-used * wanted.interval // bucket.interval)
    return min(used, wanted.capacity * wanted.interval + longest)
