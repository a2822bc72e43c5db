"""Idempotency keys: the option of an actor, and where locks and results are kept by key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from typing import Protocol

from ..core.clock import SYSTEM_CLOCK, Clock

#: Results that are kept; the oldest are forgotten for newer ones.
_MOST = 100_000


@dataclass(frozen=True, slots=True)
class Known:
    """A job of this key has run; its result as JSON."""

    result: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """A job of this key runs; its lock ends in so long, unless it is renewed."""

    ends_in: timedelta


class IdempotencyStore(Protocol):
    """Where locks and results are kept, by key. Each call is atomic.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: whoever keeps them does not do it.
    """

    def begin(self, key: str, owner: str, lock: timedelta) -> Known | Held | None:
        """Lock a key for an owner; None: it is locked, and was free."""

    def renew(self, key: str, owner: str, lock: timedelta) -> bool:
        """Lock it for so long from now; False where it is the owner's no longer."""

    def finish(self, key: str, owner: str, result: bytes, keep: timedelta) -> bool:
        """Keep a result in place of the lock; False where that is another's by now."""

    def release(self, key: str, owner: str) -> None:
        """Let go of it, if it is the owner's."""


@dataclass(frozen=True, slots=True)
class Once:
    """The option ``idempotency`` of an actor: a job of one key runs once.

    Attributes:
        key: makes the key of the message's arguments; None where a message has no key, and runs
            like any other.
        store: gives the store, at the first message; None for the broker's own.
        keep: how long the result is known; None for ``IDEMPOTENCY_KEEP_HOURS``.
        lock: how long a lock lasts when its worker is dead.
    """

    key: Callable[..., str | None]
    store: Callable[[], IdempotencyStore] | None = None
    keep: timedelta | None = None
    lock: timedelta = timedelta(seconds=30)


@dataclass(eq=False, slots=True)
class Claim:
    """The hold of one delivery on a key.

    Attributes:
        store: where the key is.
        owner: a random id of this attempt.
        keep: how long the result is known.
        lock: how long the lock lasts, unless it is renewed.
        known: the result, where a job of the key has run before.
    """

    store: IdempotencyStore
    key: str
    owner: str
    keep: timedelta
    lock: timedelta
    known: bytes | None = None


def once(
    key: Callable[..., str | None],
    *,
    keep: timedelta | None = None,
    lock: timedelta = timedelta(seconds=30),
) -> Once:
    """Make the option ``idempotency``: jobs with the same key run once.

    ``@dramatiq.actor(idempotency=once(lambda order: order["id"]))``

    Args:
        key: called with the arguments of the message; returns the key, or None for a message
            that always runs. It must depend on the arguments alone.
        keep: how long a result is kept, as JSON, where ``STATE_URL`` says; default:
            ``IDEMPOTENCY_KEEP_HOURS``.
        lock: how long a job waits for another job of the key whose worker has died.
    """
    return Once(key, None, keep, lock)


@dataclass(frozen=True, slots=True)
class _Entry:
    ends_at: float
    owner: str | None = None
    result: bytes = b""


class MemoryIdempotencyStore:
    """Keeps locks and results in memory, until this process ends. Thread-safe."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def begin(self, key: str, owner: str, lock: timedelta) -> Known | Held | None:
        with self._lock:
            entry = self._get(key)
            if entry is None:
                self._put(key, _Entry(self._in(lock), owner))
                return None
            if entry.owner is None:
                return Known(entry.result)
            return Held(timedelta(seconds=entry.ends_at - self._clock.monotonic()))

    def renew(self, key: str, owner: str, lock: timedelta) -> bool:
        with self._lock:
            entry = self._get(key)
            if entry is None or entry.owner != owner:
                return False
            self._put(key, _Entry(self._in(lock), owner))
            return True

    def finish(self, key: str, owner: str, result: bytes, keep: timedelta) -> bool:
        with self._lock:
            entry = self._get(key)
            if entry is not None and entry.owner != owner:
                return False
            self._put(key, _Entry(self._in(keep), None, result))
            return True

    def release(self, key: str, owner: str) -> None:
        with self._lock:
            entry = self._get(key)
            if entry is not None and entry.owner == owner:
                del self._entries[key]

    def _in(self, lasts: timedelta) -> float:
        return self._clock.monotonic() + lasts.total_seconds()

    def _get(self, key: str) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None and entry.ends_at <= self._clock.monotonic():
            del self._entries[key]
            return None
        return entry

    def _put(self, key: str, entry: _Entry) -> None:
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > _MOST:
            oldest, forgotten = self._entries.popitem(last=False)
            if forgotten.owner is not None:  # a job runs under it: another time
                self._entries[oldest] = forgotten
