"""The locks that this process holds, renewed while their jobs run."""

from __future__ import annotations

import logging
from datetime import timedelta
from threading import Lock

from ..core.clock import SYSTEM_CLOCK, Clock
from ..core.errors import describe
from ..core.periodic import Periodic
from ..core.process import current_pid
from ..state.idempotency import Claim

logger = logging.getLogger("formrelay.workers")

_TICK = timedelta(milliseconds=500)
#: A lock is renewed when so much of it is over: two more may fail before it is lost.
_OVER = 1 / 4


class Locks:
    """See the module. Shared by all threads; a forked process begins with none."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        self._pid = 0
        self._due: dict[Claim, float] = {}
        self._renewing = Periodic("locks", _TICK, self.renew)

    def hold(self, claim: Claim) -> None:
        """Renew it from now on."""
        with self._lock:
            if self._pid != current_pid():
                self._pid, self._due = current_pid(), {}  # the parent renews its own
            self._due[claim] = self._next(claim)
        self._renewing.start()

    def forget(self, claim: Claim) -> None:
        """Renew it no more."""
        with self._lock:
            self._due.pop(claim, None)

    def renew(self) -> None:
        """Renew those that are due."""
        now = self._clock.monotonic()
        with self._lock:
            due = [claim for claim, at in self._due.items() if at <= now]
        for claim in due:
            try:
                if not claim.store.renew(claim.key, claim.owner, claim.lock):
                    self.forget(claim)  # said when the job is over
                    continue
            except Exception as error:
                logger.warning("a lock cannot be renewed", extra={"error_message": describe(error)})
            with self._lock:
                if claim in self._due:
                    self._due[claim] = self._next(claim)

    def _next(self, claim: Claim) -> float:
        return self._clock.monotonic() + claim.lock.total_seconds() * _OVER
