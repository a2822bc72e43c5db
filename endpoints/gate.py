"""May a delivery to this endpoint begin now? Answered from this process's memory.

An endpoint that is busy, throttled or failing is not tried: the delivery is put off
(:class:`~formrelay.core.errors.NotNow`), which uses up no attempt, and its thread is
free for another endpoint.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock

from ..core.clock import SYSTEM_CLOCK, Clock
from ..core.errors import NotNow, SinkPermanent, SinkTransient

#: These say that the endpoint wants less of everything, not that one delivery is wrong.
THROTTLES = frozenset({429, 502, 504})
#: A throttled endpoint that does not say for how long is left alone for so long.
_THROTTLED = timedelta(seconds=5)
#: A busy endpoint is asked again after about as long as it takes to answer, between these.
_SOONEST, _LATEST = timedelta(milliseconds=200), timedelta(seconds=10)
#: Endpoints that are remembered; those that were not called for longest are forgotten.
_MOST_ENDPOINTS = 100_000


class EndpointDisabled(SinkPermanent):
    """The endpoint is disabled: formrelay webhooks endpoints enable ID, then replay."""


@dataclass(frozen=True, slots=True)
class Limits:
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


@dataclass(slots=True)
class _Endpoint:
    """What this process has seen of one endpoint. Times are monotonic seconds.

    Attributes:
        results: of late, the time of each and whether it failed.
        opened: how often in a row the breaker was opened.
        is_probed: one delivery is let through to see whether the endpoint works again.
        seconds: how long it takes to answer, smoothed.
    """

    in_flight: int = 0
    failures: int = 0
    results: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=200))
    opened: int = 0
    open_until: float = 0.0
    is_probed: bool = False
    throttled_until: float = 0.0
    seconds: float = 0.0


class Gate:
    """See the module. Shared by all threads of a process."""

    def __init__(self, limits: Limits, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = Lock()
        self._endpoints: OrderedDict[str, _Endpoint] = OrderedDict()
        #: Endpoints that nobody may call, as far as the book knows.
        self.disabled: frozenset[str] = frozenset()

    @contextmanager
    def delivery(self, id: str) -> Iterator[None]:
        """One delivery to the endpoint ``id``; what is raised within tells how it went.

        Raises:
            EndpointDisabled: nobody may call it.
            NotNow: it is busy, throttled, or failing.
        """
        if id in self.disabled:
            raise EndpointDisabled
        endpoint, began, is_probe = self._enter(id)
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._leave(endpoint, began, error, is_probe=is_probe)

    def _enter(self, id: str) -> tuple[_Endpoint, float, bool]:
        now = self._clock.monotonic()
        with self._lock:
            endpoint = self._endpoints.get(id)
            if endpoint is None:
                endpoint = self._endpoints[id] = _Endpoint()
                if len(self._endpoints) > _MOST_ENDPOINTS:
                    self._endpoints.popitem(last=False)
            else:
                self._endpoints.move_to_end(id)
            if endpoint.throttled_until > now:
                raise _not_now("the endpoint asked for fewer", endpoint.throttled_until - now)
            is_probe = endpoint.opened > 0
            if is_probe:
                if endpoint.open_until > now:
                    raise _not_now("the endpoint keeps failing", endpoint.open_until - now)
                if endpoint.is_probed:
                    raise _not_now("the endpoint is being tried", endpoint.seconds)
                endpoint.is_probed = True
            elif endpoint.in_flight >= self._limits.in_flight:
                raise _not_now("the endpoint is busy", endpoint.seconds)
            endpoint.in_flight += 1
        return endpoint, now, is_probe

    def _leave(
        self, endpoint: _Endpoint, began: float, error: BaseException | None, *, is_probe: bool
    ) -> None:
        now = self._clock.monotonic()
        with self._lock:
            endpoint.in_flight -= 1
            weight = 0.2 if endpoint.seconds else 1.0
            endpoint.seconds += weight * (now - began - endpoint.seconds)
            if is_probe:
                endpoint.is_probed = False
            if error is not None and not isinstance(error, SinkTransient | SinkPermanent):
                return  # not the endpoint's doing: the worker stops, say
            if isinstance(error, SinkTransient) and error.code in THROTTLES:
                asked = error.retry_after or _THROTTLED
                endpoint.throttled_until = now + asked.total_seconds()
                return
            # One that refuses what it was sent is there, and works.
            has_failed = isinstance(error, SinkTransient)
            endpoint.results.append((now, has_failed))
            if not has_failed:
                endpoint.failures = endpoint.opened = 0
                return
            endpoint.failures += 1
            # One that began before the breaker opened says nothing new by failing after it.
            if is_probe if endpoint.opened else self._fails_too_often(endpoint, now):
                self._open(endpoint, now)

    def _fails_too_often(self, endpoint: _Endpoint, now: float) -> bool:
        limits = self._limits
        if not limits.failures:
            return False
        if endpoint.failures >= limits.failures:
            return True
        since = now - limits.window.total_seconds()
        recent = [failed for at, failed in endpoint.results if at >= since]
        return len(recent) >= limits.least and sum(recent) >= limits.rate * len(recent)

    def _open(self, endpoint: _Endpoint, now: float) -> None:
        limits = self._limits
        # The exponent is cut: it grows for as long as the endpoint is away.
        wait = min(limits.opens_for * 2 ** min(endpoint.opened, 20), limits.longest)
        endpoint.opened += 1
        endpoint.open_until = now + wait.total_seconds()
        endpoint.results.clear()


def _not_now(why: str, seconds: float) -> NotNow:
    wait = max(_SOONEST.total_seconds(), seconds)
    if why == "the endpoint is busy":
        wait = min(wait, _LATEST.total_seconds())
    # Not all of them at one time.
    return NotNow(why, after=timedelta(seconds=wait * random.uniform(1, 1.5)))  # noqa: S311
