"""Tokens of connections for tests, with their clock and their store."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from cryptography.fernet import Fernet

from formrelay.state import StateRedis, make_idempotency_store
from formrelay.state.connections import Refreshed
from formrelay.state.idempotency import MemoryIdempotencyStore
from formrelay.state.key_ring import KeyRing
from formrelay.state.redis.tokens import RedisTokenStore
from formrelay.state.token_store import MemoryTokenStore
from formrelay.state.tokens import Tokens
from tests.state.stores import set_clock, use_clock
from tests.support.clock import ManualClock

HOUR = timedelta(hours=1)
START = 1_800_000_000.0
ONE, OTHER = (Fernet.generate_key().decode() for _ in range(2))


class Setup:
    """Tokens, their clock, and what a Redis needs."""

    def __init__(self, state: StateRedis | None) -> None:
        self.state = state
        self.clock = ManualClock(START)
        self.locks = MemoryIdempotencyStore() if state is None else make_idempotency_store(state)
        self.store: Any = (
            MemoryTokenStore(clock=self.clock) if state is None else RedisTokenStore(state)
        )
        self.tokens = self.make()

    def make(self, key: str = ONE, **options: Any) -> Tokens:
        """Tokens as another process has them."""
        ring = None if self.state is None else KeyRing(lambda: key)
        return Tokens(self.store, self.locks, ring, clock=self.clock, **options)

    def use_clock(self) -> None:
        """Let Redis go by the clock too; otherwise it goes by its own."""
        if self.state is not None:
            use_clock(self.store, self.state.client, "tokens.lua")
            set_clock(self.state.client, self.clock.now)

    def wait(self, seconds: float) -> None:
        """Let time pass, after :meth:`use_clock`."""
        self.clock.now += seconds
        if self.state is not None:
            set_clock(self.state.client, self.clock.now)


class Refreshing:
    """Refreshes, and records with which refresh tokens."""

    def __init__(self, *, lasts: timedelta = HOUR, rotates: bool = False) -> None:
        self.lasts, self.rotates = lasts, rotates
        self.asked: list[str] = []
        self.error: Exception | None = None

    def __call__(self, refresh_token: str) -> Refreshed:
        self.asked.append(refresh_token)
        if self.error is not None:
            raise self.error
        number = len(self.asked)
        return Refreshed(f"A{number}", self.lasts, f"R{number}" if self.rotates else None, "mail")
