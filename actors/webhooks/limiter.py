"""May a delivery to this endpoint begin now? Answered from this process's memory.

A delivery to an endpoint that is busy waits here for its turn, if that comes soon. A delivery to
an endpoint that is throttled, failing or too busy is deferred
(:class:`~formrelay.core.errors.NotNow`), which uses up no attempt.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable
from datetime import timedelta
from threading import Lock
from typing import Any

from ...core.clock import SYSTEM_CLOCK, Clock
from ...core.errors import NotNow, SinkPermanent
from .endpoint_state import EndpointLimits, EndpointState
from .registry import Changes

#: Number of healthy idle endpoints that are remembered, and of all others. Of more, the least
#: recently used are forgotten, but none with a delivery under way, in line or deferred.
_MOST_ENDPOINTS = 100_000


class EndpointDisabled(SinkPermanent):
    """The endpoint is disabled: formrelay webhooks endpoints enable ID, then replay."""


class _Delivery:
    """One delivery to an endpoint, ``async with``: in line, then under way.

    Attributes:
        turn: done when the delivery is under way or refused; None where it has not to wait.
    """

    def __init__(self, limiter: EndpointLimiter, id: str) -> None:
        self._limiter = limiter
        self.id = id
        self.turn: asyncio.Future[None] | None = None
        self.is_under_way = False
        self.is_probe = False
        self.began = 0.0

    async def __aenter__(self) -> None:
        limiter = self._limiter
        limiter.enter(self)
        if self.turn is None:
            return
        try:
            await self.turn
        except asyncio.CancelledError:
            limiter.withdraw(self)
            raise
        if not self.is_under_way:
            raise limiter.refusal(self)
        if limiter.is_disabled(self.id):  # since it stands in line
            limiter.withdraw(self)
            raise EndpointDisabled

    async def __aexit__(self, _kind: Any, error: BaseException | None, _where: Any) -> None:
        self._limiter.leave(self, error)


class EndpointLimiter:
    """Decides which deliveries may begin, in one event loop.

    What is known of endpoints may be told by any thread.
    """

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

    def delivery(self, id: str) -> _Delivery:
        """One delivery to the endpoint ``id``; what is raised within tells how it went.

        Raises (on the way in):
            EndpointDisabled: nobody may call it.
            NotNow: it is too busy, throttled, or failing.
        """
        return _Delivery(self, id)

    def enter(self, delivery: _Delivery) -> None:
        """Begin a delivery, or put it into the line of its endpoint.

        Raises:
            as :meth:`delivery`.
        """
        if self.is_disabled(delivery.id):
            raise EndpointDisabled
        now = self._clock.monotonic()
        with self._lock:
            endpoint = self._recall(delivery.id, now)
            ahead = len(endpoint.line or ())
            refusal = endpoint.refusal(now)
            if refusal is not None:
                raise refusal
            if endpoint.has_room and not ahead:
                _begin(endpoint, delivery, now)
            elif endpoint.is_worth_waiting(now, ahead):
                delivery.turn = asyncio.get_running_loop().create_future()
                if endpoint.line is None:
                    endpoint.line = deque()
                endpoint.line.append(delivery)
            else:
                raise endpoint.put_off(now, ahead)

    def refusal(self, delivery: _Delivery) -> NotNow:
        """Why waiting in line was of no use."""
        now = self._clock.monotonic()
        with self._lock:
            endpoint = self._recall(delivery.id, now)
            return endpoint.refusal(now) or endpoint.put_off(now, len(endpoint.line or ()))

    def withdraw(self, delivery: _Delivery) -> None:
        """End a delivery before it has begun; that says nothing of its endpoint."""
        with self._lock:
            line = self._recall(delivery.id, self._clock.monotonic()).line
            if line is not None and delivery in line:
                line.remove(delivery)
        if delivery.is_under_way:
            self.leave(delivery, NotNow(after=timedelta(0)))

    def leave(self, delivery: _Delivery, error: BaseException | None) -> None:
        """End a delivery and begin those in line."""
        now = self._clock.monotonic()
        with self._lock:
            endpoint = self._recall(delivery.id, now)
            endpoint.leave(now, now - delivery.began, error, is_probe=delivery.is_probe)
            _call_line(endpoint, now)
            if endpoint.is_healthy and endpoint.is_at_rest(now):
                del self._endpoints[delivery.id]
                self._pack(delivery.id, endpoint)

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


def _call_line(endpoint: EndpointState, now: float) -> None:
    """End the waiting of those whose turn it is, or of all if nobody's turn will come."""
    while endpoint.line:
        is_refused = endpoint.refusal(now) is not None
        if not is_refused and not endpoint.has_room:
            break
        delivery = endpoint.line.popleft()
        if not is_refused:
            _begin(endpoint, delivery, now)
        if not delivery.turn.done():  # it may be cancelled, and not know yet
            delivery.turn.set_result(None)


def _begin(endpoint: EndpointState, delivery: _Delivery, now: float) -> None:
    delivery.is_under_way = True
    delivery.began = now
    delivery.is_probe = endpoint.enter(now)
