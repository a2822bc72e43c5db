"""Decides from this process's memory whether a delivery to an endpoint may start now.

If the endpoint is busy, the delivery waits in memory for its turn, provided that it comes soon. If
the endpoint is throttled, failing or too busy, the delivery is deferred
(:class:`~formrelay.core.errors.NotNow`), which uses no attempt.
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

#: Maximum number of healthy idle endpoints in memory, and of all other endpoints. Beyond it, the
#: least recently used healthy and the longest known other endpoints are forgotten, except
#: endpoints with a delivery in flight, in line or deferred.
_MOST_ENDPOINTS = 100_000


class EndpointDisabled(SinkPermanent):
    """The endpoint is disabled: formrelay webhooks endpoints enable ID, then replay."""


class _Delivery:
    """Context manager of one delivery: waits in line if necessary, then is in flight.

    Attributes:
        turn: done when the delivery may start or is refused; None if it does not wait.
        is_under_way: whether it counts as in flight.
        is_probe: whether it tests an endpoint whose circuit was open.
        began: monotonic seconds when it started.
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
        if limiter.is_disabled(self.id):  # while the delivery waited
            limiter.withdraw(self)
            raise EndpointDisabled

    async def __aexit__(self, _kind: Any, error: BaseException | None, _where: Any) -> None:
        self._limiter.leave(self, error)


class EndpointLimiter:
    """Decides which deliveries may start.

    Deliveries run in one event loop; the other methods may be called from any thread.
    """

    def __init__(self, limits: EndpointLimits, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = Lock()
        #: Endpoints that are in use or failing. Healthy idle endpoints are packed in ``_idle``.
        self._endpoints: dict[str, EndpointState] = {}
        self._idle: OrderedDict[str, bytes] = OrderedDict()
        self._sweep_at = _MOST_ENDPOINTS
        #: Endpoints that are disabled according to the registry.
        self._disabled: set[str] = set()
        #: Endpoints that this process has disabled, until the registry has the report.
        self._gone: set[str] = set()

    @property
    def disabled(self) -> frozenset[str]:
        """Ids of the disabled endpoints."""
        with self._lock:
            return frozenset(self._disabled).union(self._gone)

    def is_disabled(self, id: str) -> bool:
        """Whether the endpoint ``id`` is disabled."""
        return id in self._disabled or id in self._gone

    def disable_here(self, id: str) -> None:
        """Disable an endpoint in this process, until :meth:`learn` gets it in ``reported``."""
        with self._lock:
            self._gone.add(id)

    def learn(self, changes: Changes, reported: Iterable[str] = ()) -> bool:
        """Apply changes of the registry's set of disabled endpoints.

        Args:
            reported: endpoints of :meth:`disable_here` that were reported to the registry before
                the changes were read.

        Returns:
            False if the number of disabled endpoints then differs from the registry's: the caller
            must read the whole set.
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
        """Context manager of a delivery to the endpoint ``id``.

        An error raised within it is the result of the delivery; no error means success.

        Raises (on entry):
            EndpointDisabled: the endpoint is disabled.
            NotNow: the endpoint is too busy, throttled or failing.
        """
        return _Delivery(self, id)

    def enter(self, delivery: _Delivery) -> None:
        """Start a delivery, or put it in its endpoint's line.

        Raises:
            EndpointDisabled, NotNow: see :meth:`delivery`.
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
        """The error for a delivery that waited in line and may not start."""
        now = self._clock.monotonic()
        with self._lock:
            endpoint = self._recall(delivery.id, now)
            return endpoint.refusal(now) or endpoint.put_off(now, len(endpoint.line or ()))

    def withdraw(self, delivery: _Delivery) -> None:
        """Remove a delivery that sends no request; the endpoint's failures do not change."""
        with self._lock:
            line = self._recall(delivery.id, self._clock.monotonic()).line
            if line is not None and delivery in line:
                line.remove(delivery)
        if delivery.is_under_way:
            self.leave(delivery, NotNow(after=timedelta(0)))

    def leave(self, delivery: _Delivery, error: BaseException | None) -> None:
        """End a delivery, and start the next deliveries in line."""
        now = self._clock.monotonic()
        with self._lock:
            endpoint = self._recall(delivery.id, now)
            endpoint.leave(now, now - delivery.began, error, is_probe=delivery.is_probe)
            _call_line(endpoint, now)
            if endpoint.is_healthy and endpoint.is_at_rest(now):
                del self._endpoints[delivery.id]
                self._pack(delivery.id, endpoint)

    def _recall(self, id: str, now: float) -> EndpointState:
        """The state of an endpoint, unpacked or new; the caller has the lock."""
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
        """Pack the healthy endpoints at rest, and forget the failing endpoints at rest."""
        at_rest = [
            (id, endpoint) for id, endpoint in self._endpoints.items() if endpoint.is_at_rest(now)
        ]
        for id, endpoint in at_rest[: _MOST_ENDPOINTS // 4]:  # the longest known
            del self._endpoints[id]
            if endpoint.is_healthy:
                self._pack(id, endpoint)
        # Otherwise every new endpoint would start a sweep while no endpoint is at rest.
        self._sweep_at = max(_MOST_ENDPOINTS, len(self._endpoints) + _MOST_ENDPOINTS // 4)


def _call_line(endpoint: EndpointState, now: float) -> None:
    """Start the next deliveries in line; end the wait of all if the endpoint refuses them."""
    while endpoint.line:
        is_refused = endpoint.refusal(now) is not None
        if not is_refused and not endpoint.has_room:
            break
        delivery = endpoint.line.popleft()
        if not is_refused:
            _begin(endpoint, delivery, now)
        if not delivery.turn.done():  # done if its task was cancelled but has not run yet
            delivery.turn.set_result(None)


def _begin(endpoint: EndpointState, delivery: _Delivery, now: float) -> None:
    delivery.is_under_way = True
    delivery.began = now
    delivery.is_probe = endpoint.enter(now)
