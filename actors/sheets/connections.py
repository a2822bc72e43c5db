"""Access tokens of the people and service accounts whose spreadsheets are written to.

A connection without a valid token defers its own jobs and no others. So nothing here raises the
errors that pause the whole queue, unless Google itself cannot be reached.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Lock

from ...core.clock import SYSTEM_CLOCK
from ...core.errors import (
    BrokerError,
    DeferReason,
    InvalidJob,
    NotNow,
    SinkBusy,
    SinkTransient,
    SinkUnready,
)
from ...sinks.oauth import OAuthClient
from ...sinks.sheets.errors import TokenRefused, store_failed
from ...sinks.sheets.service_account import ServiceAccount
from ...state.connections import ConnectionPaused, Refreshed
from ...state.tokens import Tokens
from .schema import SERVICE_ACCOUNT, Auth

logger = logging.getLogger("formrelay.sheets")

#: Minimum time between two log lines about the same connection.
_LOG_EVERY = timedelta(minutes=10)
#: After this time a token is no longer new, so that it is refreshed (state/tokens.py).
_REFUSED = timedelta(seconds=31)
_BUSY = timedelta(seconds=30)
#: How long the tokens of jobs are kept without a refresh: Google ends them after six months.
_KEEP = timedelta(days=190)
#: Maximum number of connections whose last log line is remembered.
_MAX_LOGGED = 1000

_NO_CLIENT = (
    "expected SHEETS_OAUTH_CLIENT_ID and SHEETS_OAUTH_CLIENT_SECRET to be set for jobs with tokens "
    "of people, got nothing"
)


@dataclass(frozen=True, slots=True)
class Connections:
    """The connections of all jobs. Thread-safe.

    Args:
        tokens: the tokens of people; None if they cannot be stored.
        client: refreshes the tokens of people; None without an OAuth client.
        account: the service account; None without one.
        account_tokens: the tokens of the service account.
        paused_wait: how long jobs wait for an operator before they are tried again.
    """

    tokens: Tokens | None
    client: OAuthClient | None
    account: ServiceAccount | None
    account_tokens: Tokens
    paused_wait: timedelta
    _logged: dict[str, float] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def token_of(self, connection: str, auth: Auth | None) -> Callable[[str | None], str]:
        """Return the function that returns an access token of a connection.

        Its argument is the token that Google refused, or None. It raises NotNow if there is no
        token until an operator or the person acts, InvalidJob if there will never be one, and
        SinkUnavailable or SinkTransient if Google cannot be reached.

        Args:
            auth: tokens in the job; None for a connection that is stored or configured.
        """

        def token(refused: str | None) -> str:
            try:
                return self._token(connection, auth, refused)
            except BrokerError as error:
                raise store_failed(error) from None
            except ConnectionPaused as error:  # which is in the log already
                raise NotNow(
                    str(error), after=self.paused_wait, reason=DeferReason.SINK_UNREADY
                ) from None
            except SinkBusy as error:
                raise NotNow(
                    str(error), after=error.retry_after or _BUSY, reason=DeferReason.SINK_BUSY
                ) from None
            except SinkUnready as error:
                self._log(connection, error)
                raise NotNow(
                    f"connection {connection}: {error}",
                    after=self.paused_wait,
                    reason=DeferReason.SINK_UNREADY,
                ) from None

        return token

    def not_now(self, connection: str, error: SinkTransient) -> NotNow:
        """The error for jobs whose access token is refused although it is new.

        The token may have been revoked since; then the next refresh fails. Any other error needs
        an operator.
        """
        self._log(connection, error)
        after = _REFUSED if isinstance(error, TokenRefused) else self.paused_wait
        return NotNow(
            f"connection {connection}: {error}", after=after, reason=DeferReason.SINK_UNREADY
        )

    def _token(self, connection: str, auth: Auth | None, refused: str | None) -> str:
        if auth is not None and auth.refresh_token is None:
            return _access_token(auth, refused)
        if connection == SERVICE_ACCOUNT:
            return self._account_token(refused)
        if self.tokens is None or self.client is None:
            raise SinkUnready(_NO_CLIENT)
        if auth is not None:
            self.tokens.adopt(
                connection,
                auth.refresh_token or "",
                access_token=auth.access_token or "",
                expires_at=_expiry(auth),
                keep=_KEEP,
            )
        return self.tokens.access_token(connection, self.client.refresh, refused=refused)

    def _account_token(self, refused: str | None) -> str:
        account = self.account
        if account is None:
            raise InvalidJob(
                "expected auth or connectionId, since this worker has no SHEETS_SERVICE_ACCOUNT, "
                "got neither"
            )
        name = f"{SERVICE_ACCOUNT}:{account.email}"

        def mint(_: str) -> Refreshed:
            minted = account.mint()
            return Refreshed(minted.access_token, minted.lasts)

        self.account_tokens.adopt(name, "", provider="google service account")
        return self.account_tokens.access_token(name, mint, refused=refused)

    def _log(self, connection: str, error: SinkTransient) -> None:
        """Log an error that needs an operator, at most once in 10 minutes for each connection."""
        now = SYSTEM_CLOCK.monotonic()
        with self._lock:
            last = self._logged.get(connection)
            if last is not None and now - last < _LOG_EVERY.total_seconds():
                return
            if len(self._logged) >= _MAX_LOGGED:
                self._logged.clear()
            self._logged[connection] = now
        about = {"connection": connection, "error_message": str(error), "code": error.code}
        logger.error("jobs wait for a connection to Google Sheets", extra=about)


def _access_token(auth: Auth, refused: str | None) -> str:
    """The access token of a job without a refresh token."""
    token, ends_at = auth.access_token or "", _expiry(auth)
    if refused == token or (ends_at is not None and ends_at <= datetime.now(UTC)):
        raise InvalidJob(
            "expected an access token that is valid, or a refresh_token: the access token has "
            "ended, and the job has nothing to renew it with"
        )
    return token


def _expiry(auth: Auth) -> datetime | None:
    if auth.expiry_date is None:
        return None
    try:
        return datetime.fromtimestamp(auth.expiry_date / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # after the year 9999
        return None
