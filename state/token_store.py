"""Stores connections to OAuth providers: their secrets encrypted, everything else in the clear."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from threading import Lock
from typing import Literal, Protocol

from ..core.clock import SYSTEM_CLOCK, Clock


@dataclass(frozen=True, slots=True)
class Pause:
    """Why a connection is paused.

    Attributes:
        by: "operator", or "provider" if it refused to refresh.
        cause: a sentence without secrets.
        at: unix seconds.
    """

    by: Literal["operator", "provider"]
    cause: str
    at: float


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about a connection that are not secret. Times are unix seconds.

    Attributes:
        provider: name of the provider.
        scope: what the connection may do, in the provider's words.
        granted_at: when somebody consented, as far as is known here.
        refreshed_at: when the access token was refreshed last; 0 for never.
        expires_at: when the access token ends; 0 without one.
        lasts: seconds from its refresh to its end.
        keep: seconds after the last refresh until an unused connection is forgotten; 0 for never.
    """

    provider: str
    scope: str = ""
    granted_at: float = 0.0
    refreshed_at: float = 0.0
    expires_at: float = 0.0
    lasts: float = 0.0
    keep: float = 0.0


@dataclass(frozen=True, slots=True)
class StoredConnection:
    """A connection as stored.

    Attributes:
        connection: its id.
        sealed: its secrets, encrypted.
        generation: counts the changes of the secrets: whoever changes them must have read the
            last change. The store sets the first one, by the time, so that a connection that is
            removed and stored again never has an old one.
        pause: None if it is not paused.
        refreshing_at: when a refresh began whose result was not stored, unix seconds; 0 for none.
    """

    connection: str
    sealed: bytes = field(repr=False)
    facts: Facts
    generation: int = 0
    pause: Pause | None = None
    refreshing_at: float = 0.0


class TokenStore(Protocol):
    """Stores connections. Each call is atomic.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: the store failed.
    """

    def load(self, connection: str) -> StoredConnection | None:
        """Return a connection; None if there is none."""

    def create(self, stored: StoredConnection) -> bool:
        """Store a connection; False if it exists."""

    def put(self, stored: StoredConnection) -> None:
        """Store a connection, or replace the stored connection as its next generation."""

    def begin(self, connection: str, generation: int, at: float) -> None:
        """Note that a refresh of this generation begins."""

    def replace(self, stored: StoredConnection) -> bool:
        """Replace the secrets and facts of ``stored.generation`` by the next generation.

        This ends a pause by the provider, not a pause by an operator.

        Returns:
            False if the connection has another generation by now, or was removed.
        """

    def pause(self, connection: str, pause: Pause, generation: int | None = None) -> bool:
        """Pause a connection that is not paused; False if it is, or has another generation."""

    def resume(self, connection: str) -> bool:
        """End a pause; False if there is none."""

    def reseal(self, connection: str, old: bytes, new: bytes) -> bool:
        """Replace the encrypted secrets if they are ``old``; the generation stays."""

    def remove(self, connection: str) -> bool:
        """Remove a connection; False if there is none."""

    def all(self) -> Iterable[StoredConnection]:
        """Return all connections."""


class MemoryTokenStore:
    """Connections in this process's memory. Thread-safe."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        self._stored: dict[str, tuple[StoredConnection, float]] = {}

    def load(self, connection: str) -> StoredConnection | None:
        with self._lock:
            return self._get(connection)

    def create(self, stored: StoredConnection) -> bool:
        with self._lock:
            if self._get(stored.connection) is not None:
                return False
            self._set(replace(stored, generation=self._first()))
            return True

    def put(self, stored: StoredConnection) -> None:
        with self._lock:
            old = self._get(stored.connection)
            generation = self._first() if old is None else old.generation + 1
            self._set(replace(stored, generation=generation))

    def begin(self, connection: str, generation: int, at: float) -> None:
        with self._lock:
            old = self._get(connection)
            if old is not None and old.generation == generation:
                self._set(replace(old, refreshing_at=at))

    def replace(self, stored: StoredConnection) -> bool:
        with self._lock:
            old = self._get(stored.connection)
            if old is None or old.generation != stored.generation:
                return False
            stays = old.pause if old.pause is not None and old.pause.by == "operator" else None
            generation = stored.generation + 1
            self._set(replace(stored, generation=generation, pause=stays, refreshing_at=0.0))
            return True

    def pause(self, connection: str, pause: Pause, generation: int | None = None) -> bool:
        with self._lock:
            old = self._get(connection)
            if old is None or old.pause is not None or generation not in (None, old.generation):
                return False
            self._set(replace(old, pause=pause))
            return True

    def resume(self, connection: str) -> bool:
        with self._lock:
            old = self._get(connection)
            if old is None or old.pause is None:
                return False
            self._set(replace(old, pause=None))
            return True

    def reseal(self, connection: str, old: bytes, new: bytes) -> bool:
        with self._lock:
            found = self._get(connection)
            if found is None or found.sealed != old:
                return False
            self._set(replace(found, sealed=new))
            return True

    def remove(self, connection: str) -> bool:
        with self._lock:
            found = self._get(connection)
            self._stored.pop(connection, None)
            return found is not None

    def all(self) -> list[StoredConnection]:
        with self._lock:
            found = [self._get(connection) for connection in list(self._stored)]
        return [each for each in found if each is not None]

    def _first(self) -> int:
        return int(self._clock.time() * 1000)

    def _get(self, connection: str) -> StoredConnection | None:
        stored, ends_at = self._stored.get(connection, (None, 0.0))
        if stored is not None and ends_at <= self._clock.monotonic():
            del self._stored[connection]
            return None
        return stored

    def _set(self, stored: StoredConnection) -> None:
        lasts = stored.facts.keep or float("inf")
        self._stored[stored.connection] = stored, self._clock.monotonic() + lasts


def keep_of(keep: timedelta | None) -> float:
    """Seconds for which an unused connection is kept; 0 for ever."""
    return 0.0 if keep is None else max(1.0, keep.total_seconds())
