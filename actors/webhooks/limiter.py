"""Decides from this process's memory whether a delivery to an endpoint may start now.

A delivery to a busy endpoint waits in memory if it can start soon. A delivery to a throttled,
failing or too busy endpoint is deferred (:class:`~formrelay.core.errors.NotNow`), which uses no
attempt.
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
#: least recently used healthy endpoints and the oldest other endpoints are forgotten, except
#: endpoints with a delivery in flight, waiting or deferred.
_MAX_ENDPOINTS = 100_000


class EndpointDisabled(SinkPermanent):
    """Endpoint disabled: run formrelay webhooks endpoints enable ID, then formrelay dlq replay."""


class _WebhookDelivery:
    """Context manager of one delivery: waits if necessary, then is in flight.

    Attributes:
        turn: done when the delivery may start or is refused; None if it need not wait.
        is_in_flight: whether it has started.
        is_probe: whether it tests an endpoint whose circuit was open.
        started_at: monotonic seconds.
    """

    def __init__(self, limiter: EndpointLimiter, id: str) -> None:
        self._limiter = limiter
        self.id = id
        self.turn: asyncio.Future[None] | None = None
        self.is_in_flight = False
        self.is_probe = False
        self.started_at = 0.0

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
        if not self.is_in_flight:
            raise limiter.refusal(self)
        if limiter.is_disabled(self.id):  # while the delivery waited
            limiter.withdraw(self)
            raise EndpointDisabled

    async def __aexit__(self, _kind: Any, error: BaseException | None, _traceback: Any) -> None:
        self._limiter.leave(self, error)


class EndpointLimiter:
    """Decides which deliveries may start.

    Deliveries run in one event loop; the other methods may be called from any thread.
    """

    def __init__(self, limits: EndpointLimits, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = Lock()
        #: Endpoints in use and failing endpoints. Healthy idle endpoints are packed in ``_idle``.
        self._endpoints: dict[str, EndpointState] = {}
        self._idle: OrderedDict[str, bytes] = OrderedDict()
        self._sweep_at = _MAX_ENDPOINTS
        #: The disabled endpoints of the registry.
        self._disabled: set[str] = set()
        #: Endpoints that this process has disabled, until the registry has its report.
        self._locally_disabled: set[str] = set()
        #: Endpoints whose circuit breaker opened since the last call of :meth:`take_opened`.
        self._opened: set[str] = set()

    @property
    def disabled(self) -> frozenset[str]:
        """Ids of the disabled endpoints."""
        with self._lock:
            return frozenset(self._disabled).union(self._locally_disabled)

    def is_disabled(self, id: str) -> bool:
        """Whether the endpoint ``id`` is disabled."""
        return id in self._disabled or id in self._locally_disabled

    def disable_locally(self, id: str) -> None:
        """Disable an endpoint in this process, before the registry does."""
        with self._lock:
            self._locally_disabled.add(id)

    def open_breakers(self) -> int:
        """Number of endpoints whose circuit breaker is open or half-open."""
        with self._lock:
            return sum(state.times_opened > 0 for state in self._endpoints.values())

    def take_opened(self) -> dict[str, float]:
        """Return the endpoints whose circuit breaker opened since the last call.

        Returns:
            Seconds until the breaker lets a probe through, by endpoint id.
        """
        now = self._clock.monotonic()
        with self._lock:
            opened, self._opened = self._opened, set()
            states = {id: self._endpoints[id] for id in opened if id in self._endpoints}
            return {id: max(0.0, state.open_until - now) for id, state in states.items()}

    def apply_changes(self, changes: Changes, reported: Iterable[str] = ()) -> bool:
        """Apply changes of the registry's set of disabled endpoints.

        Args:
            reported: locally disabled endpoints that the registry knew before it returned the
                changes.

        Returns:
            False if the number of disabled endpoints still differs from the registry's: the caller
            must read the whole set.
        """
        with self._lock:
            if changes.is_whole:
                self._disabled = set(changes.disabled)
            else:
                self._disabled.difference_update(changes.enabled)
                self._disabled.update(changes.disabled)
            self._locally_disabled.difference_update(reported)
            return len(self._disabled) == changes.count

    def webhook_delivery(self, id: str) -> _WebhookDelivery:
        """Context manager of a delivery to the endpoint ``id``.

        An error that leaves the context is the result of the delivery; no error means success.

        Raises (on entry):
            EndpointDisabled: the endpoint is disabled.
            NotNow: the endpoint is too busy, throttled or failing.
        """
        return _WebhookDelivery(self, id)

    def enter(self, delivery: _WebhookDelivery) -> None:
        """Start a delivery, or let it wait.

        Raises:
            EndpointDisabled, NotNow: see :meth:`webhook_delivery`.
        """
        if self.is_disabled(delivery.id):
            raise EndpointDisabled
        now = self._clock.monotonic()
        with self._lock:
            endpoint = self._state_of(delivery.id, now)
            ahead = len(endpoint.waiting or ())
            refusal = endpoint.refusal(now)
            if refusal is not None:
                raise refusal
            if endpoint.has_room and not ahead:
                _start(endpoint, delivery, now)
            elif endpoint.is_worth_waiting(now, ahead):
                delivery.turn = asyncio.get_running_loop().create_future()
                if endpoint.waiting is None:
                    endpoint.waiting = deque()
                endpoint.waiting.append(delivery)
            else:
                raise endpoint.defer(now, ahead)

    def refusal(self, delivery: _WebhookDelivery) -> NotNow:
        """The error for a delivery that has waited and may not start."""
        now = self._clock.monotonic()
        with self._lock:
            endpoint = self._state_of(delivery.id, now)
            return endpoint.refusal(now) or endpoint.defer(now, len(endpoint.waiting or ()))

    def withdraw(self, delivery: _WebhookDelivery) -> None:
        """Remove a delivery that sends no request; the endpoint's failures do not change."""
        with self._lock:
            waiting = self._state_of(delivery.id, self._clock.monotonic()).waiting
            if waiting is not None and delivery in waiting:
                waiting.remove(delivery)
        if delivery.is_in_flight:
            self.leave(delivery, NotNow(after=timedelta(0)))

    def leave(self, delivery: _WebhookDelivery, error: BaseException | None) -> None:
        """End a delivery, and start waiting deliveries."""
        now = self._clock.monotonic()
        with self._lock:
            endpoint = self._state_of(delivery.id, now)
            times_opened = endpoint.times_opened
            endpoint.leave(now, now - delivery.started_at, error, is_probe=delivery.is_probe)
            if endpoint.times_opened > times_opened:
                self._opened.add(delivery.id)
            _start_waiting(endpoint, now)
            if endpoint.is_healthy and endpoint.is_idle(now):
                del self._endpoints[delivery.id]
                self._pack(delivery.id, endpoint)

    def _state_of(self, id: str, now: float) -> EndpointState:
        """The state of an endpoint, unpacked or new; the caller has the lock."""
        endpoint = self._endpoints.get(id)
        if endpoint is None:
            packed = self._idle.pop(id, None)
            if packed is None:
                endpoint = EndpointState(self._limits)
            else:
                endpoint = EndpointState.unpacked(self._limits, packed)
            if len(self._endpoints) >= self._sweep_at:
                self._sweep(now)
            self._endpoints[id] = endpoint
        return endpoint

    def _pack(self, id: str, endpoint: EndpointState) -> None:
        self._idle[id] = endpoint.packed()
        if len(self._idle) > _MAX_ENDPOINTS:
            self._idle.popitem(last=False)

    def _sweep(self, now: float) -> None:
        """Remove the oldest idle endpoints: pack the healthy, and forget the failing endpoints."""
        idle = [(id, endpoint) for id, endpoint in self._endpoints.items() if endpoint.is_idle(now)]
        for id, endpoint in idle[: _MAX_ENDPOINTS // 4]:
            del self._endpoints[id]
            if endpoint.is_healthy:
                self._pack(id, endpoint)
        # Otherwise every new endpoint would start a sweep while no endpoint is idle.
        self._sweep_at = max(_MAX_ENDPOINTS, len(self._endpoints) + _MAX_ENDPOINTS // 4)


def _start_waiting(endpoint: EndpointState, now: float) -> None:
    """Start the next waiting deliveries; wake all of them if the endpoint refuses deliveries."""
    while endpoint.waiting:
        is_refused = endpoint.refusal(now) is not None
        if not is_refused and not endpoint.has_room:
            break
        delivery = endpoint.waiting.popleft()
        if not is_refused:
            _start(endpoint, delivery, now)
        if not delivery.turn.done():  # done if its task was cancelled but has not run yet
            delivery.turn.set_result(None)


def _start(endpoint: EndpointState, delivery: _WebhookDelivery, now: float) -> None:
    delivery.is_in_flight = True
    delivery.started_at = now
    delivery.is_probe = endpoint.enter(now)
