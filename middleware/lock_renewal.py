"""Renews the locks of this process (idempotency, journal) while their jobs are running."""

from __future__ import annotations

import logging
from datetime import timedelta
from threading import Lock
from typing import Protocol

from ..core.clock import SYSTEM_CLOCK, Clock
from ..core.errors import describe
from ..core.periodic import Periodic
from ..core.process import current_pid

logger = logging.getLogger("formrelay.workers")

_TICK = timedelta(milliseconds=500)
#: The share of a lock's time after which it is renewed: two renewals may fail before it expires.
_RENEW_AFTER = 1 / 4


class Renewing(Protocol):
    """A store whose locks are renewed."""

    def renew(self, key: str, owner: str, lock: timedelta) -> bool:
        """Extend the owner's lock to ``lock`` from now; False if the owner has lost it."""


class Held(Protocol):
    """A lock that this process has: a ``Claim`` on an idempotency key, a ``Run`` of a journal."""

    @property
    def store(self) -> Renewing:
        """The store that has the lock."""

    @property
    def key(self) -> str:
        """The key of the lock in the store."""

    @property
    def owner(self) -> str:
        """Random id of the attempt."""

    @property
    def lock(self) -> timedelta:
        """How long it lasts, unless it is renewed."""


class LockRenewal:
    """Renews locks in a thread of its own. Thread-safe; a forked process starts without locks."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        self._pid = 0
        self._due: dict[Held, float] = {}
        self._renewing = Periodic("locks", _TICK, self.renew)

    def add(self, claim: Held) -> None:
        """Renew the lock of a claim from now on."""
        with self._lock:
            if self._pid != current_pid():
                self._pid, self._due = current_pid(), {}  # the parent process renews the others
            self._due[claim] = self._next(claim)
        self._renewing.start()

    def remove(self, claim: Held) -> None:
        """Stop renewing the lock of a claim."""
        with self._lock:
            self._due.pop(claim, None)

    def stop(self) -> None:
        """End the thread, unless a job of another worker in this process holds a lock."""
        with self._lock:
            if not self._due:
                self._renewing.stop()

    def renew(self) -> None:
        """Renew the locks that are due."""
        now = self._clock.monotonic()
        with self._lock:
            due = [claim for claim, at in self._due.items() if at <= now]
        for claim in due:
            try:
                if not claim.store.renew(claim.key, claim.owner, claim.lock):
                    self.remove(claim)  # logged when the job ends
                    continue
            except Exception as error:
                about = {"error_message": describe(error)}
                logger.warning("could not renew a lock", extra=about)
            with self._lock:
                if claim in self._due:
                    self._due[claim] = self._next(claim)

    def _next(self, claim: Held) -> float:
        return self._clock.monotonic() + claim.lock.total_seconds() * _RENEW_AFTER
