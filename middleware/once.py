"""The option ``idempotency`` of an actor, and what it asks of whoever keeps locks and results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Known:
    """A job of this key has run; its result as JSON."""

    result: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """A job of this key runs; its lock ends in so long, unless it is renewed."""

    ends_in: timedelta


class Ledger(Protocol):
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
    """The option ``idempotency`` of an actor; made by :func:`formrelay.state.once`.

    Attributes:
        key: makes the key of the message's arguments; None where a message has none, and runs
            as any other.
        ledger: gives the ledger, at the first message.
        keep: how long the result is known.
        lock: how long a lock lasts when its worker is dead.
    """

    key: Callable[..., str | None]
    ledger: Callable[[], Ledger]
    keep: timedelta = timedelta(hours=24)
    lock: timedelta = timedelta(seconds=30)


@dataclass(eq=False, slots=True)
class Claim:
    """A delivery's hold on a key.

    Attributes:
        known: the result, where it has run before.
    """

    once: Once
    key: str
    owner: str
    known: bytes | None = None
