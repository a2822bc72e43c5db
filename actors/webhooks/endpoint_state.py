"""What one process has seen of one endpoint, and what follows from it. Pure but for chance."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from struct import Struct
from typing import Any

from ...core.errors import NotNow, SinkPermanent, SinkTransient

#: These say that the endpoint wants less of everything, not that one delivery is wrong.
THROTTLES = frozenset({429, 502, 504})
#: A throttled endpoint that does not say for how long is left alone for so many seconds.
_THROTTLED = 5.0
#: Of the latest answer, in how long an endpoint takes.
_WEIGHT = 0.2
#: A delivery waits in memory for its turn if that takes no more than so many seconds.
_WORTH_WAITING = 0.5
#: Else it is put off until its turn will come, for so many seconds at least and at most.
_SOONEST, _LATEST = 0.2, 60.0
#: Of a busy endpoint, half a window is over after so many results.
_MOST_RESULTS = 100
#: A healthy and idle endpoint in 24 bytes: allowed, seconds (below 0: None), since, worked,
#: worked_before. As an object it would take twenty times as many.
_PACKED = Struct("<IfdII")


@dataclass(frozen=True, slots=True)
class EndpointLimits:
    """When an endpoint is left alone.

    Attributes:
        in_flight: deliveries to one endpoint at a time, in one process.
        failures: so many in a row open the breaker; 0: there is none.
        rate: so does this share of failures in ``window``, where there were ``least`` in all.
        opens_for: how long it is open at first; twice as long after each probe that fails.
        longest: it is never open for longer.
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
    """What this process knows of one endpoint. Times are monotonic seconds.

    Attributes:
        limits: the same for all endpoints.
        in_flight: deliveries under way.
        allowed: so many may be: one at first, one more for each that works, half of them after
            one that fails. So an endpoint that hangs takes one place, not all that it may have.
        answered: when it last did, or when the first of those under way began.
        seconds: how long it takes to answer, smoothed; None while it never has.
        turns_until: the last turn that was promised to a delivery that was put off.
        failures: in a row.
        since: when the current half of the window began.
        worked, failed: deliveries in the current half of the window.
        worked_before, failed_before: deliveries in the half before.
        opened: how often in a row the breaker was opened.
        is_probed: one delivery is let through to see whether the endpoint works again.
        line: deliveries that wait for their turn in memory; None while nobody ever had to.
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
        """All that is known of an endpoint that :attr:`is_healthy` and :meth:`is_at_rest`."""
        seconds = -1.0 if self.seconds is None else self.seconds
        return _PACKED.pack(self.allowed, seconds, self.since, self.worked, self.worked_before)

    @property
    def is_healthy(self) -> bool:
        """Whether no recent delivery failed."""
        return not (self.failures or self.opened or self.failed or self.failed_before)

    def is_at_rest(self, now: float) -> bool:
        """Whether no delivery is under way, in line, or deferred to a later time."""
        return not (
            self.in_flight
            or self.line
            or self.turns_until > now
            or self.throttled_until > now
            or self.open_until > now
        )

    def refusal(self, now: float) -> NotNow | None:
        """Why it is not to be called at all."""
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
        """Whether one more may be under way, if nothing refuses it."""
        return self.opened > 0 or self.in_flight < self.allowed

    def enter(self, now: float) -> bool:
        """One more is under way; whether it is a probe."""
        if not self.in_flight:
            self.answered = now
        self.in_flight += 1
        if self.opened:
            self.is_probed = True
            return True
        return False

    def is_worth_waiting(self, now: float, ahead: int) -> bool:
        """Whether a turn behind ``ahead`` others will come soon enough to wait for in memory."""
        if self.seconds is None:  # it has not answered yet, and perhaps never will
            return ahead < self.allowed
        return (ahead + 1) * self._pace(now) <= _WORTH_WAITING

    def put_off(self, now: float, ahead: int) -> NotNow:
        """Promise a turn: behind those in line, and those that were put off before."""
        pace = self._pace(now)
        self.turns_until = max(self.turns_until, now + ahead * pace) + pace
        return _not_now("the endpoint is busy", min(self.turns_until - now, _LATEST))

    def _pace(self, now: float) -> float:
        """Seconds from one turn to the next."""
        return max(self.seconds or 0.0, now - self.answered) / self.allowed

    def leave(
        self, now: float, took: float, error: BaseException | None, *, is_probe: bool
    ) -> None:
        """One is no longer under way.

        Args:
            took: seconds.
            error: how it went; None for well.
        """
        self.in_flight -= 1
        if is_probe:
            self.is_probed = False
        if error is not None and not isinstance(error, SinkTransient | SinkPermanent):
            return  # not the endpoint's doing: the worker stops, say
        self.answered = now
        before = took if self.seconds is None else self.seconds
        self.seconds = before + _WEIGHT * (took - before)
        if isinstance(error, SinkTransient) and error.code in THROTTLES:
            asked = error.retry_after
            until = now + (_THROTTLED if asked is None else asked.total_seconds())
            self.throttled_until = max(self.throttled_until, until)
            self.allowed = max(1, self.allowed // 2)
            return
        # One that refuses what it was sent is there, and works.
        self._slide(now)
        if not isinstance(error, SinkTransient):
            self.worked += 1
            self.failures = self.opened = 0
            self.allowed = min(self.limits.in_flight, self.allowed + 1)
            return
        self.failed += 1
        self.failures += 1
        self.allowed = max(1, self.allowed // 2)
        # One that began before the breaker opened says nothing new by failing after it.
        if is_probe if self.opened else self._fails_too_often():
            self._open(now)

    def _slide(self, now: float) -> None:
        """Move the window, which ends now, by half of it where its latter half is over."""
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
        # The exponent is cut: it grows for as long as the endpoint is away.
        wait = min(limits.opens_for * 2 ** min(self.opened, 20), limits.longest)
        self.opened += 1
        self.open_until = now + wait.total_seconds()
        self.worked = self.failed = self.worked_before = self.failed_before = 0


def _not_now(why: str, seconds: float) -> NotNow:
    # Not all of them at one time.
    wait = max(_SOONEST, seconds) * random.uniform(1, 1.5)  # noqa: S311
    return NotNow(why, after=timedelta(seconds=wait))
