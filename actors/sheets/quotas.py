"""Keeps the calls of all workers below Google's quotas."""

from __future__ import annotations

import random
import time
from datetime import timedelta

from ...core.errors import DeferReason, NotNow
from ...sinks.sheets.client import CallKind
from ...sinks.sheets.errors import QuotaExceeded
from ...state.rate_limits import Limit, RateLimits

_MINUTE = timedelta(minutes=1)
#: Longest wait for which the thread sleeps; a longer wait defers the jobs.
_WAIT_HERE = timedelta(seconds=2)
#: Maximum number of waits before a call: other workers may take the quota first.
_TRIES = 3
#: Jobs that wait for a quota do not all come back at once.
_SPREAD_SECONDS = 2.0
_LARGEST = 100_000


class Quotas:
    """Counts the calls of all workers against Google's quotas. Thread-safe.

    Google has quotas of read and of write calls: of the project, and of each person or service
    account. They differ between projects. The numbers given here are used until Google refuses a
    call and names the real number.

    Args:
        project, user: calls a minute.
    """

    def __init__(self, limits: RateLimits, project: int, user: int) -> None:
        self._store = limits
        kinds: tuple[CallKind, CallKind] = ("read", "write")
        self._project = {kind: Limit.at_most(project, _MINUTE) for kind in kinds}
        self._user = {kind: Limit.at_most(user, _MINUTE) for kind in kinds}

    def take(self, kind: CallKind, connection: str) -> None:
        """Count a call, after a short sleep if the quota is used up until then.

        Raises:
            NotNow: a quota is used up.
            BrokerError: the store failed.
        """
        wait = self._take(kind, connection)
        for _ in range(_TRIES):
            if wait is None:
                return
            if wait > _WAIT_HERE:
                break
            time.sleep(wait.total_seconds())
            wait = self._take(kind, connection)
        if wait is not None:
            spread = timedelta(seconds=random.uniform(0, _SPREAD_SECONDS))  # noqa: S311
            raise NotNow(
                f"the quota of {kind} calls is used up for now",
                after=wait + spread,
                reason=DeferReason.RATE_LIMIT,
            )

    def _take(self, kind: CallKind, connection: str) -> timedelta | None:
        project, user = self._project[kind], self._user[kind]
        return self._store.take(
            [(_project_key(kind), project), (_user_key(kind, connection), user)]
        )

    def learn(
        self, error: QuotaExceeded, kind: CallKind, connection: str, *, is_foreign: bool = False
    ) -> None:
        """Use the number that Google names for a quota, and send no call until it is refilled.

        Args:
            kind: of the call that was refused, if Google does not say it.
            is_foreign: whether the connection may belong to another Google project: then only its
                own calls stop.

        Raises:
            BrokerError: the store failed.
        """
        if "read" in error.metric:
            kind = "read"
        elif "write" in error.metric:
            kind = "write"
        if error.value and error.per and not is_foreign:
            limits = self._user if error.is_per_user else self._project
            limits[kind] = Limit.at_most(min(error.value, _LARGEST), error.per)
        is_own = error.is_per_user or is_foreign
        key = _user_key(kind, connection) if is_own else _project_key(kind)
        self._store.close_until(key, error.after)


def _project_key(kind: CallKind) -> str:
    return f"sheets:project:{kind}"


def _user_key(kind: CallKind, connection: str) -> str:
    return f"sheets:user:{kind}:{connection}"
