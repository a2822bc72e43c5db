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

from ...core.errors import DeferReason, NotNow, SinkPermanent, SinkTransient

#: Statuses after which all deliveries to the endpoint are deferred for a while.
THROTTLES = frozenset({429, 502, 504})
#: Seconds for which an endpoint is throttled if its response has no Retry-After.
_THROTTLE_SECONDS = 5.0
#: Weight of the latest delivery in the smoothed duration of the deliveries to an endpoint.
_SMOOTHING = 0.2
#: A delivery waits in memory if it can start within this number of seconds, as estimated.
_MAX_WAIT = 0.5
#: Minimum and maximum number of seconds by which a delivery is deferred, before jitter.
_MIN_DEFER, _MAX_DEFER = 0.2, 60.0
#: Number of results after which a half of the window ends early.
_MAX_RESULTS = 100
#: A healthy idle endpoint in 24 bytes: allowed, smoothed_seconds (None as -1), half_began,
#: succeeded, succeeded_before. An object would take twenty times as much memory.
_LAYOUT = Struct("<IfdII")


@dataclass(frozen=True, slots=True)
class EndpointLimits:
    """Limits of an endpoint in one process.

    The circuit breaker opens after ``failures`` in a row, or if at least ``min_deliveries``
    deliveries ended within ``window`` and the share of failures is ``failure_rate`` or more.

    Attributes:
        in_flight: maximum number of deliveries in flight.
        failures: number of failures in a row; 0 switches the circuit breaker off.
        open_for: how long the circuit is open at first; doubled after each failed probe.
        max_open: maximum time for which the circuit is open.
    """

    in_flight: int
    failures: int = 5
    failure_rate: float = 0.5
    min_deliveries: int = 20
    window: timedelta = timedelta(seconds=60)
    open_for: timedelta = timedelta(seconds=30)
    max_open: timedelta = timedelta(minutes=10)


@dataclass(slots=True, eq=False)
class EndpointState:
    """State of one endpoint in this process. Times are monotonic seconds.

    Attributes:
        limits: the same object for all endpoints.
        in_flight: number of deliveries in flight.
        allowed: current maximum of ``in_flight``: 1 at first, one more after each success, halved
            after each failure. So a new endpoint that hangs gets one delivery at a time.
        last_progress: when the last delivery ended, or when the endpoint was last idle.
        smoothed_seconds: smoothed duration of a delivery; None until a delivery has ended.
        last_turn: the latest time to which a delivery was deferred.
        failures: number of failures in a row.
        half_began: when the current half of the window began.
        succeeded, failed: numbers of deliveries in the current half of the window.
        succeeded_before, failed_before: numbers of deliveries in the previous half.
        times_opened: how often in a row the circuit breaker has opened; 0: closed.
        open_until: when the open circuit lets a probe through.
        has_probe: whether a probe is in flight, the delivery that tests a failing endpoint.
        throttled_until: when deliveries may start again after a status in :data:`THROTTLES`.
        waiting: deliveries that wait in memory, in order; None until a delivery has to wait.
    """

    limits: EndpointLimits
    in_flight: int = 0
    allowed: int = 1
    last_progress: float = 0.0
    smoothed_seconds: float | None = None
    last_turn: float = 0.0
    failures: int = 0
    half_began: float = 0.0
    succeeded: int = 0
    failed: int = 0
    succeeded_before: int = 0
    failed_before: int = 0
    times_opened: int = 0
    open_until: float = 0.0
    has_probe: bool = False
    throttled_until: float = 0.0
    waiting: deque[Any] | None = None

    @classmethod
    def unpacked(cls, limits: EndpointLimits, packed: bytes) -> EndpointState:
        """The inverse of :meth:`packed`."""
        allowed, seconds, half_began, succeeded, succeeded_before = _LAYOUT.unpack(packed)
        return cls(
            limits,
            allowed=allowed,
            smoothed_seconds=None if seconds < 0 else seconds,
            half_began=half_began,
            succeeded=succeeded,
            succeeded_before=succeeded_before,
        )

    def packed(self) -> bytes:
        """The state of a healthy idle endpoint in 24 bytes."""
        seconds = -1.0 if self.smoothed_seconds is None else self.smoothed_seconds
        counts = self.succeeded, self.succeeded_before
        return _LAYOUT.pack(self.allowed, seconds, self.half_began, *counts)

    @property
    def is_healthy(self) -> bool:
        """Whether no recent delivery failed."""
        return not (self.failures or self.times_opened or self.failed or self.failed_before)

    def is_idle(self, now: float) -> bool:
        """Whether no delivery is in flight, waiting or deferred to a later time."""
        return not (
            self.in_flight
            or self.waiting
            or self.last_turn > now
            or self.throttled_until > now
            or self.open_until > now
        )

    def refusal(self, now: float) -> NotNow | None:
        """The error for a delivery that must not start: throttled, or circuit open; else None."""
        if self.throttled_until > now:
            why = "endpoint is throttled (429, 502 or 504)"
            return _not_now(why, self.throttled_until - now, DeferReason.SINK_BUSY)
        if not self.times_opened:
            return None
        if self.open_until > now:
            return _not_now("circuit open", self.open_until - now, DeferReason.CIRCUIT_OPEN)
        if self.has_probe:
            why, wait = "circuit half-open: one probe in flight", self.smoothed_seconds or 0.0
            return _not_now(why, wait, DeferReason.CIRCUIT_OPEN)
        return None

    @property
    def has_room(self) -> bool:
        """Whether the concurrency limit allows one more delivery; call :meth:`refusal` first."""
        return self.times_opened > 0 or self.in_flight < self.allowed

    def enter(self, now: float) -> bool:
        """Count a delivery that starts; returns whether it is a probe."""
        if not self.in_flight:
            self.last_progress = now
        self.in_flight += 1
        if self.times_opened:
            self.has_probe = True
            return True
        return False

    def is_worth_waiting(self, now: float, ahead: int) -> bool:
        """Whether a delivery behind ``ahead`` others will start soon enough to wait in memory."""
        if self.smoothed_seconds is None:  # no delivery has ended yet
            return ahead < self.allowed
        return (ahead + 1) * self._pace(now) <= _MAX_WAIT

    def defer(self, now: float, ahead: int) -> NotNow:
        """Defer a delivery until after all waiting and deferred deliveries; returns the error."""
        pace = self._pace(now)
        self.last_turn = max(self.last_turn, now + ahead * pace) + pace
        wait = min(self.last_turn - now, _MAX_DEFER)
        return _not_now("endpoint is busy", wait, DeferReason.BUSY)

    def _pace(self, now: float) -> float:
        """Estimated seconds between the starts of two deliveries."""
        return max(self.smoothed_seconds or 0.0, now - self.last_progress) / self.allowed

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
            self.has_probe = False
        if error is not None and not isinstance(error, SinkTransient | SinkPermanent):
            return  # not a failure of the endpoint: for example, the worker stops
        self.last_progress = now
        before = took if self.smoothed_seconds is None else self.smoothed_seconds
        self.smoothed_seconds = before + _SMOOTHING * (took - before)
        if isinstance(error, SinkTransient) and error.code in THROTTLES:
            asked = error.retry_after
            until = now + (_THROTTLE_SECONDS if asked is None else asked.total_seconds())
            self.throttled_until = max(self.throttled_until, until)
            self.allowed = max(1, self.allowed // 2)
            return
        # A permanent error counts as a success, because the endpoint answers.
        self._slide(now)
        if not isinstance(error, SinkTransient):
            self.succeeded += 1
            self.failures = self.times_opened = 0
            self.allowed = min(self.limits.in_flight, self.allowed + 1)
            return
        self.failed += 1
        self.failures += 1
        self.allowed = max(1, self.allowed // 2)
        # Only a failed probe opens an open circuit again: all other deliveries started before the
        # circuit opened.
        must_open = is_probe if self.times_opened else self._fails_too_often()
        if must_open:
            self._open(now)

    def _slide(self, now: float) -> None:
        """Start a new half of the window if the current half is over."""
        half = self.limits.window.total_seconds() / 2
        passed = now - self.half_began
        if passed >= 2 * half:
            self.half_began = now
            self.succeeded_before = self.failed_before = 0
        elif passed >= half or self.succeeded + self.failed >= _MAX_RESULTS:
            self.half_began = min(now, self.half_began + half)
            self.succeeded_before, self.failed_before = self.succeeded, self.failed
        else:
            return
        self.succeeded = self.failed = 0

    def _fails_too_often(self) -> bool:
        limits = self.limits
        if not limits.failures:
            return False
        if self.failures >= limits.failures:
            return True
        failed = self.failed + self.failed_before
        count = failed + self.succeeded + self.succeeded_before
        return count >= limits.min_deliveries and failed >= limits.failure_rate * count

    def _open(self, now: float) -> None:
        limits = self.limits
        # The exponent is limited: an endpoint that stays down would overflow a timedelta.
        wait = min(limits.open_for * 2 ** min(self.times_opened, 20), limits.max_open)
        self.times_opened += 1
        self.open_until = now + wait.total_seconds()
        self.succeeded = self.failed = self.succeeded_before = self.failed_before = 0


def _not_now(why: str, seconds: float, reason: DeferReason) -> NotNow:
    # Jitter, so that deferred deliveries do not all return at the same time.
    wait = max(_MIN_DEFER, seconds) * random.uniform(1, 1.5)  # noqa: S311
    return NotNow(why, after=timedelta(seconds=wait), reason=reason)
