"""State of one endpoint in one process: concurrency limit, throttling and circuit breaker.

No I/O and no clock: the caller passes the time. Only the jitter is random.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from struct import Struct
from typing import Any

from ...core.errors import NotNow, SinkPermanent, SinkTransient

#: Statuses after which all deliveries to the endpoint are deferred for a while.
THROTTLES = frozenset({429, 502, 504})
#: Seconds for which an endpoint is throttled if its response has no Retry-After.
_THROTTLED = 5.0
#: Weight of the latest delivery in the smoothed response time of an endpoint.
_WEIGHT = 0.2
#: Maximum number of seconds that a delivery waits in memory for its turn, as estimated.
_WORTH_WAITING = 0.5
#: Minimum and maximum number of seconds by which it is deferred otherwise, before jitter.
_SOONEST, _LATEST = 0.2, 60.0
#: Number of results after which a half of the window ends early.
_MOST_RESULTS = 100
#: A healthy idle endpoint in 24 bytes: allowed, seconds (None as -1), since, worked,
#: worked_before. An object would take twenty times as much memory.
_PACKED = Struct("<IfdII")


@dataclass(frozen=True, slots=True)
class EndpointLimits:
    """Limits of an endpoint in one process.

    The circuit breaker opens after ``failures`` in a row, or when a share of ``rate`` of at least
    ``least`` deliveries within ``window`` failed.

    Attributes:
        in_flight: maximum number of deliveries in flight.
        failures: number of failures in a row; 0 switches the circuit breaker off.
        opens_for: how long the circuit is open at first; doubled after each failed probe.
        longest: the longest time for which it is open.
    """

    in_flight: int
    failures: int = 5
    rate: float = 0.5
    least: int = 20
    window: timedelta = timedelta(seconds=60)
    opens_for: timedelta = timedelta(seconds=30)
    longest: timedelta = timedelta(minutes=10)


@dataclass(slots=True, eq=False)
class EndpointState:
    """State of one endpoint in this process. Times are monotonic seconds.

    Attributes:
        limits: the same object for all endpoints.
        in_flight: number of deliveries in flight.
        allowed: current maximum of ``in_flight``: 1 at first, one more after each success, halved
            after each failure. So a new endpoint that hangs takes one place.
        answered: when the last delivery ended, or when the endpoint stopped being idle, if later.
        seconds: smoothed duration of a delivery; None before the first one has ended.
        turns_until: the latest turn given to a deferred delivery.
        failures: number of failures in a row.
        since: when the current half of the window began.
        worked, failed: number of deliveries in the current half of the window.
        worked_before, failed_before: number of deliveries in the half before.
        opened: number of times in a row that the circuit breaker has opened; 0: closed.
        open_until: when the open circuit lets a probe through.
        is_probed: whether a probe is in flight: one delivery that tests a failing endpoint.
        throttled_until: when deliveries may start again after a status in :data:`THROTTLES`.
        line: deliveries that wait in memory for their turn; None until the first has to wait.
    """

    limits: EndpointLimits
    in_flight: int = 0
    allowed: int = 1
    answered: float = 0.0
    seconds: float | None = None
    turns_until: float = 0.0
    failures: int = 0
    since: float = 0.0
    worked: int = 0
    failed: int = 0
    worked_before: int = 0
    failed_before: int = 0
    opened: int = 0
    open_until: float = 0.0
    is_probed: bool = False
    throttled_until: float = 0.0
    line: deque[Any] | None = None

    @classmethod
    def unpacked(cls, limits: EndpointLimits, packed: bytes) -> EndpointState:
        """The inverse of :meth:`packed`."""
        allowed, seconds, since, worked, worked_before = _PACKED.unpack(packed)
        return cls(
            limits,
            allowed=allowed,
            seconds=None if seconds < 0 else seconds,
            since=since,
            worked=worked,
            worked_before=worked_before,
        )

    def packed(self) -> bytes:
        """The state of an endpoint that :attr:`is_healthy` and :meth:`is_at_rest`, in 24 bytes."""
        seconds = -1.0 if self.seconds is None else self.seconds
        return _PACKED.pack(self.allowed, seconds, self.since, self.worked, self.worked_before)

    @property
    def is_healthy(self) -> bool:
        """Whether no recent delivery failed."""
        return not (self.failures or self.opened or self.failed or self.failed_before)

    def is_at_rest(self, now: float) -> bool:
        """Whether no delivery is in flight, in line or deferred to a later time."""
        return not (
            self.in_flight
            or self.line
            or self.turns_until > now
            or self.throttled_until > now
            or self.open_until > now
        )

    def refusal(self, now: float) -> NotNow | None:
        """The error for a delivery that must not start: throttled, or circuit open; else None."""
        if self.throttled_until > now:
            return _not_now("the endpoint asked for fewer", self.throttled_until - now)
        if not self.opened:
            return None
        if self.open_until > now:
            return _not_now("the endpoint keeps failing", self.open_until - now)
        if self.is_probed:
            return _not_now("the endpoint is being tried", self.seconds or 0.0)
        return None

    @property
    def has_room(self) -> bool:
        """Whether the concurrency limit allows one more delivery; ask :meth:`refusal` first."""
        return self.opened > 0 or self.in_flight < self.allowed

    def enter(self, now: float) -> bool:
        """Count a delivery that starts; returns whether it is a probe."""
        if not self.in_flight:
            self.answered = now
        self.in_flight += 1
        if self.opened:
            self.is_probed = True
            return True
        return False

    def is_worth_waiting(self, now: float, ahead: int) -> bool:
        """Whether a delivery behind ``ahead`` others will start soon enough to wait in memory."""
        if self.seconds is None:  # no delivery has ended yet
            return ahead < self.allowed
        return (ahead + 1) * self._pace(now) <= _WORTH_WAITING

    def put_off(self, now: float, ahead: int) -> NotNow:
        """Give a delivery a turn behind all waiting and deferred deliveries; returns the error."""
        pace = self._pace(now)
        self.turns_until = max(self.turns_until, now + ahead * pace) + pace
        return _not_now("the endpoint is busy", min(self.turns_until - now, _LATEST))

    def _pace(self, now: float) -> float:
        """Estimated seconds between two turns."""
        return max(self.seconds or 0.0, now - self.answered) / self.allowed

    def leave(
        self, now: float, took: float, error: BaseException | None, *, is_probe: bool
    ) -> None:
        """Count a delivery that has ended.

        Args:
            took: duration in seconds.
            error: the error of the delivery; None for a success.
        """
        self.in_flight -= 1
        if is_probe:
            self.is_probed = False
        if error is not None and not isinstance(error, SinkTransient | SinkPermanent):
            return  # not a failure of the endpoint: for example, the worker stops
        self.answered = now
        before = took if self.seconds is None else self.seconds
        self.seconds = before + _WEIGHT * (took - before)
        if isinstance(error, SinkTransient) and error.code in THROTTLES:
            asked = error.retry_after
            until = now + (_THROTTLED if asked is None else asked.total_seconds())
            self.throttled_until = max(self.throttled_until, until)
            self.allowed = max(1, self.allowed // 2)
            return
        # A permanent error counts as a success here: the endpoint is up and answers.
        self._slide(now)
        if not isinstance(error, SinkTransient):
            self.worked += 1
            self.failures = self.opened = 0
            self.allowed = min(self.limits.in_flight, self.allowed + 1)
            return
        self.failed += 1
        self.failures += 1
        self.allowed = max(1, self.allowed // 2)
        # Once the circuit has opened, only a failed probe opens it again: all other deliveries
        # started before that.
        if is_probe if self.opened else self._fails_too_often():
            self._open(now)

    def _slide(self, now: float) -> None:
        """Start a new half of the window if the current half is over."""
        half = self.limits.window.total_seconds() / 2
        passed = now - self.since
        if passed >= 2 * half:
            self.since = now
            self.worked_before = self.failed_before = 0
        elif passed >= half or self.worked + self.failed >= _MOST_RESULTS:
            self.since = min(now, self.since + half)
            self.worked_before, self.failed_before = self.worked, self.failed
        else:
            return
        self.worked = self.failed = 0

    def _fails_too_often(self) -> bool:
        limits = self.limits
        if not limits.failures:
            return False
        if self.failures >= limits.failures:
            return True
        failed = self.failed + self.failed_before
        count = failed + self.worked + self.worked_before
        return count >= limits.least and failed >= limits.rate * count

    def _open(self, now: float) -> None:
        limits = self.limits
        # The exponent is limited: an endpoint that stays down would overflow a timedelta.
        wait = min(limits.opens_for * 2 ** min(self.opened, 20), limits.longest)
        self.opened += 1
        self.open_until = now + wait.total_seconds()
        self.worked = self.failed = self.worked_before = self.failed_before = 0


def _not_now(why: str, seconds: float) -> NotNow:
    # Jitter, so that deferred deliveries do not all return at the same time.
    wait = max(_SOONEST, seconds) * random.uniform(1, 1.5)  # noqa: S311
    return NotNow(why, after=timedelta(seconds=wait))
