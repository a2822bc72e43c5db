"""The idempotency store, and the actor option ``idempotency``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from inspect import iscoroutinefunction
from threading import Lock
from typing import Protocol

from ..core.clock import SYSTEM_CLOCK, Clock
from ..core.errors import ConfigError

#: Maximum number of entries in memory; the oldest are dropped.
_MAX_ENTRIES = 100_000


@dataclass(frozen=True, slots=True)
class Finished:
    """A job with this key has finished.

    Attributes:
        result: its result as JSON.
    """

    result: bytes


@dataclass(frozen=True, slots=True)
class Running:
    """A job with this key is running.

    Attributes:
        ends_in: time until its lock expires, unless it is renewed.
    """

    ends_in: timedelta


class IdempotencyStore(Protocol):
    """Stores locks and results by key. Each call is atomic.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: the store failed.
    """

    def begin(self, key: str, owner: str, lock: timedelta) -> Finished | Running | None:
        """Lock a key for an owner; returns None if the key was free and is now locked."""

    def renew(self, key: str, owner: str, lock: timedelta) -> bool:
        """Extend the owner's lock to ``lock`` from now; False if the owner has lost it."""

    def finish(self, key: str, owner: str, result: bytes, keep: timedelta) -> bool:
        """Replace the lock by a result; False if another owner has the lock."""

    def release(self, key: str, owner: str) -> None:
        """Remove the owner's lock, if the owner still has it."""


@dataclass(frozen=True, slots=True)
class Once:
    """The actor option ``idempotency``; made by :func:`once`.

    Attributes:
        key: makes the key from the message's arguments; None for a message that always runs.
        store: returns the store, called once per message; None for the broker's store.
        keep: how long a result is kept; None for ``IDEMPOTENCY_KEEP_HOURS``.
        lock: how long the lock of a dead worker lasts.
    """

    key: Callable[..., str | None]
    store: Callable[[], IdempotencyStore] | None = None
    keep: timedelta | None = None
    lock: timedelta = timedelta(seconds=30)

    def __post_init__(self) -> None:
        if not callable(self.key) or iscoroutinefunction(self.key):
            raise ConfigError(
                "expected the key of once(key) to be a function of the job's arguments that is "
                f"not async, got {self.key!r}"
            )
        _check_duration("lock", self.lock)
        if self.keep is not None:
            _check_duration("keep", self.keep)


@dataclass(eq=False, slots=True)
class Claim:
    """The claim of one delivery on an idempotency key.

    Attributes:
        store: the store that has the key.
        key: a digest of the actor's name and the key.
        owner: random id of this attempt.
        keep: how long the result is kept.
        lock: how long the lock lasts, unless it is renewed.
        result: the result of an earlier job with this key, as JSON; None if there is none.
    """

    store: IdempotencyStore
    key: str
    owner: str
    keep: timedelta
    lock: timedelta
    result: bytes | None = None


def _check_duration(name: str, value: object) -> None:
    if not isinstance(value, timedelta) or value <= timedelta(0):
        raise ConfigError(
            f"expected {name} of once(...) to be a timedelta longer than zero, got {value!r}"
        )


def once(
    key: Callable[..., str | None],
    *,
    keep: timedelta | None = None,
    lock: timedelta = timedelta(seconds=30),
) -> Once:
    """Make the actor option ``idempotency``: jobs with the same key run once.

    ``@dramatiq.actor(idempotency=once(lambda order: order["id"]))``

    Args:
        key: called with the arguments of the message; returns the key, or None for a message
            that always runs. It must depend on the arguments alone.
        keep: how long a result is kept, as JSON, in the store of ``STATE_URL``; default:
            ``IDEMPOTENCY_KEEP_HOURS``.
        lock: how long a job waits for a job with the same key whose worker has died.

    Raises:
        ConfigError: an argument is of the wrong type, or a duration is not longer than zero.
    """
    return Once(key, None, keep, lock)


@dataclass(frozen=True, slots=True)
class _Entry:
    ends_at: float
    owner: str | None = None
    result: bytes = b""


class MemoryIdempotencyStore:
    """Stores locks and results in this process's memory. Thread-safe."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def begin(self, key: str, owner: str, lock: timedelta) -> Finished | Running | None:
        with self._lock:
            entry = self._get(key)
            if entry is None:
                self._put(key, _Entry(self._in(lock), owner))
                return None
            if entry.owner is None:
                return Finished(entry.result)
            return Running(timedelta(seconds=entry.ends_at - self._clock.monotonic()))

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
        if len(self._entries) > _MAX_ENTRIES:
            oldest, dropped = self._entries.popitem(last=False)
            if dropped.owner is not None:  # its job is running: keep the lock
                self._entries[oldest] = dropped
