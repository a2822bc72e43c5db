"""The access token that logs in at the SMTP and IMAP server (XOAUTH2), shared by all workers."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ...config import Settings
from ...core.errors import ConfigError, SinkUnready
from ...sinks.oauth import GOOGLE, OAuthClient, Provider, microsoft
from ...state.connections import ConnectionPaused, connection_id
from ..resources import open_tokens


def unreadable_token(settings: Settings) -> str | None:
    """A line if no key of STATE_KEY decrypts the stored tokens of the SMTP account.

    Raises:
        ConfigError: STATE_KEY is missing.
        BrokerError: the shared store failed.
    """
    section = settings.smtp
    refresh_token = section.secret("oauth_refresh_token")
    if section.oauth_provider is None or refresh_token is None:
        return None
    if _connection(refresh_token) not in open_tokens(settings).unreadable():
        return None
    return (
        "expected STATE_KEY to have the key that encrypted the stored tokens of the SMTP account, "
        "it does not: add that key behind a comma, or set SMTP_OAUTH_REFRESH_TOKEN to the token "
        "of a new consent"
    )


def _connection(refresh_token: str) -> str:
    # A new consent has another refresh token, so it is a new connection: it needs no resuming.
    return connection_id("smtp", refresh_token)


def make_token(
    settings: Settings, provider: Provider | None = None, *, refresh_token: str | None = None
) -> Callable[[bool], str] | None:
    """Return a function that returns the access token; None without OAuth.

    Its argument asks for a new token, because the server refused the last one. It raises
    SinkUnready if nobody can get a token until an operator acts.

    Args:
        provider: instead of the configured one.
        refresh_token: instead of that of the SMTP server.

    Raises:
        ConfigError: the tokens could not be stored encrypted.
    """
    section = settings.smtp
    refresh_token = refresh_token or section.secret("oauth_refresh_token")
    if section.oauth_provider is None:
        return None
    if section.oauth_client_id is None or refresh_token is None:
        raise ConfigError("expected SMTP_OAUTH_CLIENT_ID and SMTP_OAUTH_REFRESH_TOKEN to be set")
    provider = provider or (
        GOOGLE if section.oauth_provider == "google" else microsoft(section.oauth_tenant)
    )
    client = OAuthClient(
        provider, section.oauth_client_id, lambda: section.secret("oauth_client_secret")
    )
    tokens, connection = open_tokens(settings), _connection(refresh_token)
    last = threading.local()  # each thread has a login of its own

    def token(is_new: bool) -> str:
        tokens.adopt(connection, refresh_token, provider=provider.name)
        refused = getattr(last, "token", None) if is_new else None
        try:
            found = tokens.access_token(connection, client.refresh, refused=refused)
        except ConnectionPaused as error:
            raise SinkUnready(
                f"the OAuth token cannot be refreshed: {error.cause}; set "
                "SMTP_OAUTH_REFRESH_TOKEN to the token of a new consent",
                retry_after=error.after,
            ) from None
        last.token = found
        return found

    return token
