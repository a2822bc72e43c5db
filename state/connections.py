"""Connections to OAuth providers, and the errors of their tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ..core.errors import DeferReason, NotNow, SinkUnready
from .digests import digest


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The answer of a provider to a refresh.

    Attributes:
        lasts: how long the access token lasts from now.
        refresh_token: the new refresh token; None if the old one stays.
        scope: what the token may do; "" if the provider did not say.
    """

    access_token: str = field(repr=False)
    lasts: timedelta
    refresh_token: str | None = field(default=None, repr=False)
    scope: str = ""


#: Refreshes a token; gets the refresh token. Raises GrantRefused, or another SinkError.
Refresh = Callable[[str], Refreshed]


#: Finds a likely cause by the time since the consent and the time since the last refresh.
Guess = Callable[[timedelta, timedelta], str | None]


class GrantRefused(SinkUnready):
    """The provider refuses to refresh a token until somebody consents again.

    Attributes:
        cause: the possible causes, in a sentence without secrets.
        guess: names the likely one of them; None if time tells nothing.
    """

    def __init__(self, cause: str, *, code: int | None = None, guess: Guess | None = None) -> None:
        super().__init__(f"the provider refuses to refresh the token: {cause}", code=code)
        self.cause, self.guess = cause, guess


class ConnectionPaused(NotNow):
    """A connection is paused until somebody consents again or resumes it.

    Attributes:
        connection: its id.
        cause: the likely cause.
    """

    reason = DeferReason.SINK_UNREADY

    def __init__(self, connection: str, cause: str) -> None:
        super().__init__(f"connection {connection} is paused: {cause}", after=timedelta(minutes=10))
        self.connection, self.cause = connection, cause


class ConnectionUnknown(SinkUnready):
    """There is no such connection in the store."""


class TokensUnreadable(SinkUnready):
    """The tokens of a connection were encrypted with a key that STATE_KEY does not have."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection, without its secrets. Times are in UTC.

    Attributes:
        id: its id.
        provider: name of the provider.
        scope: what it may do, in the provider's words.
        granted_at: when its consent became known here.
        refreshed_at: when its access token was refreshed last; None for never.
        expires_at: when its access token ends; None without one.
        cause: why it is paused; None if it is not.
        paused_at: since when it is paused.
    """

    id: str
    provider: str
    scope: str
    granted_at: datetime
    refreshed_at: datetime | None
    expires_at: datetime | None
    cause: str | None = None
    paused_at: datetime | None = None

    @property
    def is_paused(self) -> bool:
        """Whether it is paused."""
        return self.cause is not None


def connection_id(kind: str, refresh_token: str) -> str:
    """Name a connection after a refresh token, by its digest."""
    return f"{kind}:{digest(refresh_token)}"
