"""The number of SMTP connections of all workers, which the shared store counts."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from uuid import uuid4

from ...core.errors import BrokerError
from ...middleware.lock_renewal import LockRenewal
from ...sinks.smtp.shares import MakeShare
from ...state.leases import Leases

#: After this time the connection of a worker that was killed counts no longer.
_LASTS = timedelta(seconds=60)


class ConnectionShare:
    """The share of one connection: a lease, which is renewed until it is given back.

    Args:
        key: names the account.
        number: maximum number of connections.
    """

    def __init__(self, leases: Leases, key: str, number: int, renewal: LockRenewal) -> None:
        self.key, self.owner, self.lock = key, uuid4().hex, _LASTS
        self.is_lost = False
        self._leases, self._number, self._renewal = leases, number, renewal
        self._is_taken = False

    @property
    def store(self) -> ConnectionShare:
        """Renews it."""
        return self

    def renew(self, key: str, owner: str, lock: timedelta) -> bool:
        """Extend the lease; False if others have taken all leases meanwhile."""
        self.is_lost = not self._leases.hold(key, owner, self._number, lock)
        if not self._is_taken:  # given back at this moment
            self._leases.let_go(key, owner)
            return False
        return not self.is_lost

    def take(self) -> bool:
        """Take a lease.

        Raises:
            BrokerError: the store failed.
        """
        self._is_taken = True  # also if the answer is lost
        self._is_taken = self._leases.hold(self.key, self.owner, self._number, self.lock)
        if self._is_taken:
            self._renewal.add(self)
        return self._is_taken

    def give_back(self) -> None:
        if self._is_taken:
            self._is_taken = False
            self._renewal.remove(self)
            with suppress(BrokerError):  # otherwise it expires
                self._leases.let_go(self.key, self.owner)


def make_shares(
    leases: Leases, account: str, number: int | None, renewal: LockRenewal
) -> MakeShare | None:
    """Return what makes the share of each connection of an account; None without a limit."""
    if number is None:
        return None
    key = f"email:connections:{account}"
    return lambda: ConnectionShare(leases, key, number, renewal)
