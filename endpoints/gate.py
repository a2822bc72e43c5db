"""May a delivery to this endpoint begin now? Answered from this process's memory.

A delivery to an endpoint that is busy waits here for its turn, if that comes soon. To one that
is throttled, failing or too busy it is put off (:class:`~formrelay.core.errors.NotNow`), which
uses up no attempt.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from datetime import timedelta
from threading import Lock
from typing import Any

from ..core.clock import SYSTEM_CLOCK, Clock
from ..core.errors import NotNow, SinkPermanent
from ..core.later import Later
from .state import Endpoint, Limits

#: Endpoints that are remembered; those that were not called for longest are forgotten.
_MOST_ENDPOINTS = 100_000


class EndpointDisabled(SinkPermanent):
    """The endpoint is disabled: formrelay webhooks endpoints enable ID, then replay."""


class _Place(Later[None]):
    """One delivery's place before an endpoint: in line, or under way."""

    def __init__(self, gate: Gate, entry: _Entry) -> None:
        self._gate = gate
        self.entry = entry
        self.resume: Callable[[], object] = _nobody
        self.is_under_way = False
        self.is_probe = False
        self.began = 0.0

    def start(self, resume: Callable[[], object]) -> None:
        self.resume = resume
        self._gate.line_up(self)

    def result(self) -> None:
        if not self.is_under_way:
            raise self._gate.refusal(self)


class _Visit:
    """``async with``: from before an endpoint's door until one is out again."""

    def __init__(self, gate: Gate, id: str) -> None:
        self._gate = gate
        self._id = id

    async def __aenter__(self) -> None:
        self._place = place = self._gate.enter(self._id)
        if place.is_under_way:
            return
        await place
        if self._id in self._gate.disabled:  # since it stands in line
            self._gate.leave(place, NotNow(after=timedelta(0)))  # which says nothing of it
            raise EndpointDisabled

    async def __aexit__(self, _kind: Any, error: BaseException | None, _where: Any) -> None:
        self._gate.leave(self._place, error)


class _Entry:
    """An endpoint and its line."""

    def __init__(self, limits: Limits) -> None:
        self.endpoint = Endpoint(limits)
        self.line: deque[_Place] = deque()


class Gate:
    """See the module. Shared by all threads of a process."""

    def __init__(self, limits: Limits, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        #: Endpoints that nobody may call, as far as the book knows.
        self.disabled: frozenset[str] = frozenset()

    def delivery(self, id: str) -> _Visit:
        """One delivery to the endpoint ``id``; what is raised within tells how it went.

        Raises (on the way in):
            EndpointDisabled: nobody may call it.
            NotNow: it is too busy, throttled, or failing.
        """
        return _Visit(self, id)

    def enter(self, id: str) -> _Place:
        """Go before the endpoint: a place under way, or one that is to be waited at."""
        if id in self.disabled:
            raise EndpointDisabled
        now = self._clock.monotonic()
        with self._lock:
            entry = self._entries.get(id)
            if entry is None:
                entry = self._entries[id] = _Entry(self._limits)
                if len(self._entries) > _MOST_ENDPOINTS:
                    self._entries.popitem(last=False)
            else:
                self._entries.move_to_end(id)
            endpoint, ahead = entry.endpoint, len(entry.line)
            refusal = endpoint.refusal(now)
            if refusal is not None:
                raise refusal
            place = _Place(self, entry)
            if endpoint.has_room and not ahead:
                _let_through(place, now)
            elif not endpoint.is_worth_waiting(now, ahead):
                raise endpoint.put_off(now, ahead)
            return place

    def line_up(self, place: _Place) -> None:
        """Wait for a turn; it may have come meanwhile, or have been taken back."""
        entry, now = place.entry, self._clock.monotonic()
        with self._lock:
            entry.line.append(place)
            called = _called(entry, now)
        _resume(called)

    def refusal(self, place: _Place) -> NotNow:
        """Why a place in line was of no use."""
        now = self._clock.monotonic()
        with self._lock:
            endpoint = place.entry.endpoint
            return endpoint.refusal(now) or endpoint.put_off(now, len(place.entry.line))

    def leave(self, place: _Place, error: BaseException | None) -> None:
        """Make room for those in line."""
        entry, now = place.entry, self._clock.monotonic()
        with self._lock:
            entry.endpoint.leave(now, now - place.began, error, is_probe=place.is_probe)
            called = _called(entry, now)
        _resume(called)


def _called(entry: _Entry, now: float) -> list[_Place]:
    """Those of the line who are to go on: whose turn it is, or all if nobody's will come."""
    called: list[_Place] = []
    while entry.line:
        is_refused = entry.endpoint.refusal(now) is not None
        if not is_refused and not entry.endpoint.has_room:
            break
        place = entry.line.popleft()
        if not is_refused:
            _let_through(place, now)
        called.append(place)
    return called


def _let_through(place: _Place, now: float) -> None:
    place.is_under_way = True
    place.began = now
    place.is_probe = place.entry.endpoint.enter(now)


def _resume(places: Iterable[_Place]) -> None:
    for place in places:  # not under the lock: who goes on may come back here at once
        place.resume()


def _nobody() -> None:
    """Nobody waits yet."""
