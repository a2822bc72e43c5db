"""May a delivery to this endpoint begin now? Answered from this process's memory.

A delivery to an endpoint that is busy waits here for its turn, if that comes soon. A delivery to
an endpoint that is throttled, failing or too busy is deferred
(:class:`~formrelay.core.errors.NotNow`), which uses up no attempt.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from datetime import timedelta
from threading import Lock
from typing import Any

from ...core.clock import SYSTEM_CLOCK, Clock
from ...core.errors import NotNow, SinkPermanent
from ...core.later import Later
from .endpoint_state import EndpointLimits, EndpointState
from .registry import Changes

#: Number of healthy idle endpoints that are remembered, and of all others. Of more, the least
#: recently used are forgotten, but none with a delivery under way, in line or deferred.
_MOST_ENDPOINTS = 100_000


class EndpointDisabled(SinkPermanent):
    """The endpoint is disabled: formrelay webhooks endpoints enable ID, then replay."""


class _Place(Later[None]):
    """One delivery's place before an endpoint: in line, or under way."""

    def __init__(self, limiter: EndpointLimiter, id: str, endpoint: EndpointState) -> None:
        self._limiter = limiter
        self.id = id
        self.endpoint = endpoint
        self.resume: Callable[[], object] = _nobody
        self.is_under_way = False
        self.is_probe = False
        self.began = 0.0

    def start(self, resume: Callable[[], object]) -> None:
        self.resume = resume
        self._limiter.line_up(self)

    def result(self) -> None:
        if not self.is_under_way:
            raise self._limiter.refusal(self)


class _Visit:
    """``async with``: from before an endpoint's door until one is out again."""

    def __init__(self, limiter: EndpointLimiter, id: str) -> None:
        self._limiter = limiter
        self._id = id

    async def __aenter__(self) -> None:
        self._place = place = self._limiter.enter(self._id)
        if place.is_under_way:
            return
        await place
        if self._limiter.is_disabled(self._id):  # since it stands in line
            self._limiter.leave(place, NotNow(after=timedelta(0)))  # which says nothing of it
            raise EndpointDisabled

    async def __aexit__(self, _kind: Any, error: BaseException | None, _where: Any) -> None:
        self._limiter.leave(self._place, error)


class EndpointLimiter:
    """Decides which deliveries may begin. Shared by all threads of a process."""

    def __init__(self, limits: EndpointLimits, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = Lock()
        #: Endpoints that are in use or failing; all others are packed (see :mod:`.state`).
        self._endpoints: dict[str, EndpointState] = {}
        self._idle: OrderedDict[str, bytes] = OrderedDict()
        self._sweep_at = _MOST_ENDPOINTS
        #: Disabled according to the registry.
        self._disabled: set[str] = set()
        #: Disabled by this process, until the registry is known to have heard of it.
        self._gone: set[str] = set()

    @property
    def disabled(self) -> frozenset[str]:
        """Ids of the endpoints that nobody may call."""
        with self._lock:
            return frozenset(self._disabled).union(self._gone)

    def is_disabled(self, id: str) -> bool:
        """Whether nobody may call the endpoint ``id``."""
        return id in self._disabled or id in self._gone

    def disable_here(self, id: str) -> None:
        """Disable an endpoint in this process, until :meth:`learn` says that all know of it."""
        with self._lock:
            self._gone.add(id)

    def learn(self, changes: Changes, reported: Iterable[str] = ()) -> bool:
        """Take over which endpoints are disabled according to the registry.

        Args:
            reported: endpoints of :meth:`disable_here` that the registry had heard of before
                the changes were read.

        Returns:
            False where the changes do not add up to what the registry has: it is to be read as
            a whole.
        """
        with self._lock:
            if changes.is_whole:
                self._disabled = set(changes.disabled)
            else:
                self._disabled.difference_update(changes.enabled)
                self._disabled.update(changes.disabled)
            self._gone.difference_update(reported)
            return len(self._disabled) == changes.count

    def delivery(self, id: str) -> _Visit:
        """One delivery to the endpoint ``id``; what is raised within tells how it went.

        Raises (on the way in):
            EndpointDisabled: nobody may call it.
            NotNow: it is too busy, throttled, or failing.
        """
        return _Visit(self, id)

    def enter(self, id: str) -> _Place:
        """Go before the endpoint: a place under way, or one that is to be waited at."""
        if self.is_disabled(id):
            raise EndpointDisabled
        now = self._clock.monotonic()
        with self._lock:
            endpoint = self._recall(id, now)
            ahead = len(endpoint.line or ())
            refusal = endpoint.refusal(now)
            if refusal is not None:
                raise refusal
            place = _Place(self, id, endpoint)
            if endpoint.has_room and not ahead:
                _let_through(place, now)
            elif not endpoint.is_worth_waiting(now, ahead):
                raise endpoint.put_off(now, ahead)
            return place

    def line_up(self, place: _Place) -> None:
        """Wait for a turn; it may have come meanwhile, or have been taken back."""
        now = self._clock.monotonic()
        with self._lock:
            # The endpoint may have come to rest, and been packed, since this place was made.
            endpoint = place.endpoint = self._recall(place.id, now)
            if endpoint.line is None:
                endpoint.line = deque()
            endpoint.line.append(place)
            called = _called(endpoint, now)
        _resume(called)

    def refusal(self, place: _Place) -> NotNow:
        """Why a place in line was of no use."""
        now = self._clock.monotonic()
        with self._lock:
            endpoint = self._recall(place.id, now)
            return endpoint.refusal(now) or endpoint.put_off(now, len(endpoint.line or ()))

    def leave(self, place: _Place, error: BaseException | None) -> None:
        """Make room for those in line."""
        endpoint, now = place.endpoint, self._clock.monotonic()
        with self._lock:
            endpoint.leave(now, now - place.began, error, is_probe=place.is_probe)
            called = _called(endpoint, now)
            if endpoint.is_healthy and endpoint.is_at_rest(now):
                del self._endpoints[place.id]
                self._pack(place.id, endpoint)
        _resume(called)

    def _recall(self, id: str, now: float) -> EndpointState:
        """The state of an endpoint, unpacked; under the lock."""
        endpoint = self._endpoints.get(id)
        if endpoint is None:
            packed = self._idle.pop(id, None)
            limits = self._limits
            if packed is None:
                endpoint = EndpointState(limits)
            else:
                endpoint = EndpointState.unpacked(limits, packed)
            if len(self._endpoints) >= self._sweep_at:
                self._sweep(now)
            self._endpoints[id] = endpoint
        return endpoint

    def _pack(self, id: str, endpoint: EndpointState) -> None:
        self._idle[id] = endpoint.packed()
        if len(self._idle) > _MOST_ENDPOINTS:
            self._idle.popitem(last=False)

    def _sweep(self, now: float) -> None:
        """Pack the endpoints that have come to rest, or forget them where they were failing."""
        at_rest = [
            (id, endpoint) for id, endpoint in self._endpoints.items() if endpoint.is_at_rest(now)
        ]
        for id, endpoint in at_rest[: _MOST_ENDPOINTS // 4]:  # they became known first
            del self._endpoints[id]
            if endpoint.is_healthy:
                self._pack(id, endpoint)
        # Not again at each new endpoint, should none be at rest.
        self._sweep_at = max(_MOST_ENDPOINTS, len(self._endpoints) + _MOST_ENDPOINTS // 4)


def _called(endpoint: EndpointState, now: float) -> list[_Place]:
    """Those of the line who are to go on: whose turn it is, or all if nobody's will come."""
    called: list[_Place] = []
    while endpoint.line:
        is_refused = endpoint.refusal(now) is not None
        if not is_refused and not endpoint.has_room:
            break
        place = endpoint.line.popleft()
        if not is_refused:
            _let_through(place, now)
        called.append(place)
    return called


def _let_through(place: _Place, now: float) -> None:
    place.is_under_way = True
    place.began = now
    place.is_probe = place.endpoint.enter(now)


def _resume(places: Iterable[_Place]) -> None:
    for place in places:  # not under the lock: who goes on may come back here at once
        place.resume()


def _nobody() -> None:
    """Nobody waits yet."""
