"""Refreshes OAuth 2 access tokens at the token endpoints of Google and Microsoft (RFC 6749)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import orjson
import pycurl

from ..core.errors import (
    ConfigError,
    SinkBusy,
    SinkError,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)
from ..state.connections import GrantRefused, Refreshed
from .http.blocking import BlockingClient, BlockingResponse, RequestFailed
from .http.headers import parse_retry_after

#: How long a token lasts if the provider does not say. (RFC 6749 only recommends that it does.)
_DEFAULT_LASTS = timedelta(minutes=10)
_PRINTABLE = re.compile(r"[\x21-\x7e]+\Z")
#: Errors after which somebody has to consent again.
_REFUSED = {"invalid_grant", "interaction_required", "consent_required", "login_required"}
#: Errors after which an operator has to correct the client's registration or configuration.
_UNREADY = {
    "invalid_client": "it does not accept the client id and secret: check both",
    "unauthorized_client": "the client may not use refresh tokens: check its kind",
    "unsupported_grant_type": "it does not offer refresh tokens: check the provider",
    "invalid_scope": "it does not know the scope, or the consent does not have it",
    "invalid_request": "it does not accept the form of the request: check the provider",
    "deleted_client": "the client was deleted in the provider's console",
    "disabled_client": "the client was disabled by the provider",
    "org_internal": "the client serves only people of its own organisation",
    "admin_policy_enforced": "the organisation's policy does not allow this client or scope",
}
_GOOGLE_CAUSES = (
    "the person revoked the access or changed the password; or the app is in 'Testing', where "
    "a consent ends after 7 days; or the token was not used for 6 months; or the person has 100 "
    "newer tokens: let the person consent again"
)
_MICROSOFT_CAUSES = (
    "the person revoked the access or changed the password, or the token was not used for 90 "
    "days: let the person consent again"
)
#: Microsoft's codes (AADSTS…) of refused grants.
_MICROSOFT = {
    50034: "the account does not exist any more",
    50053: "the account is locked",
    50055: "the password has expired",
    50057: "the account is disabled",
    50074: "the organisation now asks for a second factor: let the person consent again",
    50076: "the organisation now asks for a second factor: let the person consent again",
    50079: "the organisation now asks for a second factor: let the person consent again",
    50173: "the password was changed, or an administrator revoked all tokens: let the person "
    "consent again",
    53003: "a Conditional Access policy of the organisation forbids it: ask its administrator",
    65001: "the consent was revoked: let the person or an administrator consent again",
    70043: "a sign-in frequency policy of the organisation ended the token: let the person consent "
    "again, or ask its administrator",
    700082: "the token was not used for 90 days: let the person consent again",
    700084: "the token is one of a single-page app, which ends after 24 hours: register the client "
    "as 'Web' and let the person consent again",
}
#: Microsoft's codes of refused clients.
_MICROSOFT_CLIENT = {
    90002: "there is no such tenant: check the tenant",
    700016: "the client does not exist in this tenant: check the client id and the tenant",
    7000215: "the client secret is wrong: use the secret's value, not its id",
    7000222: "the client secret has expired: make a new one in the provider's console",
}


@dataclass(frozen=True, slots=True)
class Provider:
    """An OAuth 2 provider.

    Attributes:
        name: "google" or "microsoft", which decides the likely causes of a refusal.
        token_url: its token endpoint: https, or http on this machine for tests.

    Raises:
        ConfigError: the URL is of another kind.
    """

    name: str
    token_url: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.token_url)
        is_local = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if not parts.hostname or not (
            parts.scheme == "https" or (parts.scheme == "http" and is_local)
        ):
            raise ConfigError(
                f"expected the token endpoint of {self.name} to be https://host/path, or http:// "
                "on this machine, got another URL: it gets refresh tokens and the client secret"
            )


GOOGLE = Provider("google", "https://oauth2.googleapis.com/token")


def microsoft(tenant: str = "common") -> Provider:
    """Microsoft's identity platform.

    Args:
        tenant: the tenant's id or domain; "common" for accounts of any organisation.
    """
    path = quote(tenant, safe="")
    return Provider("microsoft", f"https://login.microsoftonline.com/{path}/oauth2/v2.0/token")


class OAuthClient:
    """A client registered with a provider. Thread-safe; :meth:`refresh` is a ``state.Refresh``.

    Args:
        provider: the provider.
        client_id: id of the registration.
        client_secret: returns its secret, asked at each refresh, since it rotates; None for a
            public client.
        connect_timeout: time-out of connecting.
        timeout: time-out after that. Both together are shorter than ``state.tokens.LOCK``.
        scope: scopes to ask for, separated by spaces; "" for those of the consent.
    """

    def __init__(
        self,
        provider: Provider,
        client_id: str,
        client_secret: Callable[[], str | None],
        *,
        connect_timeout: timedelta = timedelta(seconds=5),
        timeout: timedelta = timedelta(seconds=20),
        scope: str = "",
    ) -> None:
        self._provider = provider
        self._client_id, self._client_secret = client_id, client_secret
        self._timeouts = (connect_timeout.total_seconds(), timeout.total_seconds())
        self._scope = scope

    def refresh(self, refresh_token: str) -> Refreshed:
        """Ask for a new access token.

        Raises:
            GrantRefused: somebody has to consent again.
            SinkUnready: the client's registration or configuration is wrong.
            SinkBusy, SinkUnavailable, SinkTransient: the provider failed.
        """
        if not refresh_token:
            raise GrantRefused(
                "the connection has no refresh token: let the person consent again, with "
                "access_type=offline (Google) or the scope offline_access (Microsoft)"
            )
        form = {
            "grant_type": "refresh_token",
            "refresh_token": refresh_token,
            "client_id": self._client_id,
        }
        if secret := (self._client_secret() or "").strip():
            form["client_secret"] = secret
        if self._scope:
            form["scope"] = self._scope
        return self._parse(self._post(urlencode(form).encode()))

    def _post(self, body: bytes) -> BlockingResponse:
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
            "User-Agent": "formrelay",
        }
        client = BlockingClient()  # a connection of its own: tokens are refreshed once an hour
        try:
            return client.request("POST", self._provider.token_url, headers, body, self._timeouts)
        except RequestFailed as error:
            raise self._unreachable(error) from None
        finally:
            client.close()

    def _unreachable(self, error: RequestFailed) -> SinkError:
        where = f"the token endpoint of {self._provider.name}"
        if error.code == pycurl.E_PEER_FAILED_VERIFICATION:
            return SinkUnready(
                f"expected the TLS certificate of {where} to be valid, it is not: nothing was "
                "sent; check for a proxy that opens TLS, and the system's CA certificates"
            )
        if not error.was_sent:
            return SinkUnavailable(
                f"expected to connect to {where}, could not (libcurl error {error.code}): check "
                "the network and the firewall"
            )
        return SinkTransient(f"{where} did not answer (libcurl error {error.code})")

    def _parse(self, response: BlockingResponse) -> Refreshed:
        found = _json_object(response)
        if response.status != 200:
            raise self._refusal(response, found)
        token, rotated = found.get("access_token"), found.get("refresh_token")
        kind = found.get("token_type")
        if (
            not _is_token(token)
            or not (rotated is None or _is_token(rotated))
            or not (kind is None or (isinstance(kind, str) and kind.lower() == "bearer"))
        ):
            raise SinkTransient(
                f"expected a bearer token from the token endpoint of {self._provider.name}, got an "
                f"answer of another shape ({response.status}): check the provider",
                code=response.status,
            )
        scope = found.get("scope")
        return Refreshed(
            str(token),
            _lasts(found.get("expires_in")),
            rotated,
            scope if isinstance(scope, str) and scope.isprintable() else "",
        )

    def _refusal(self, response: BlockingResponse, found: Mapping[str, Any]) -> SinkError:
        """The error for a status other than 200. Descriptions are not quoted: they name people."""
        status, name = response.status, self._provider.name
        where, error = f"the token endpoint of {name}", str(found.get("error"))
        retry_after = parse_retry_after(response.headers.get("retry-after"), now=time.time())
        if status in (429, 503) or error == "temporarily_unavailable":
            return SinkBusy(f"{where} is busy ({status})", code=status, retry_after=retry_after)
        if status >= 500 or error == "server_error":
            return SinkTransient(f"{where} answered {status}", code=status, retry_after=retry_after)
        codes = _codes(found)
        for code in codes:
            if hint := _MICROSOFT_CLIENT.get(code):
                return SinkUnready(f"{where} refused the client: {hint}", code=status)
        if error in _REFUSED:
            return self._refused(status, found, codes)
        if error in _UNREADY:
            return SinkUnready(f"{where} answered {error}: {_UNREADY[error]}", code=status)
        return SinkUnready(
            f"expected 200 from {where}, got {status} without an error that is known: check the "
            "provider and its token endpoint",
            code=status,
        )

    def _refused(self, status: int, found: Mapping[str, Any], codes: list[int]) -> GrantRefused:
        if self._provider.name == "google":
            if found.get("error_subtype") == "invalid_rapt":
                cause = (
                    "the organisation's session control asks for a new sign-in: let the person "
                    "consent again, or exempt the app in the Google Admin console"
                )
                return GrantRefused(cause, code=status)
            return GrantRefused(_GOOGLE_CAUSES, code=status, guess=_guess_google)
        for code in codes:
            if cause := _MICROSOFT.get(code, ""):
                return GrantRefused(f"{cause} (AADSTS{code})", code=status)
        return GrantRefused(_MICROSOFT_CAUSES, code=status)


def _guess_google(age: timedelta, idle: timedelta) -> str | None:
    """The likely cause, by the time since the consent and since the last refresh."""
    if idle >= timedelta(days=180):
        return "the token was not used for 6 months: let the person consent again"
    if timedelta(days=6, hours=12) <= age <= timedelta(days=8):
        return (
            "the consent is 7 days old: most likely the app is in 'Testing', where a consent ends "
            "after 7 days: publish it in the Google console, then let the person consent again"
        )
    return None


def _json_object(response: BlockingResponse) -> dict[str, Any]:
    """The JSON object of a response; empty if it has none."""
    try:
        found = orjson.loads(response.body) if response.is_whole else None
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_token(value: object) -> bool:
    """Whether a value can be a token. A control character would split an HTTP header."""
    return isinstance(value, str) and _PRINTABLE.match(value) is not None


def _lasts(value: object) -> timedelta:
    """How long a token lasts; some providers send the seconds as text."""
    try:
        seconds = float(str(value))
    except ValueError:
        return _DEFAULT_LASTS
    # (nan is neither more nor less than 1)
    return timedelta(seconds=min(seconds, 366 * 86_400) if seconds >= 1 else 1)


def _codes(found: Mapping[str, Any]) -> list[int]:
    """Microsoft's numbers of an error."""
    codes = found.get("error_codes")
    return [code for code in codes if isinstance(code, int)] if isinstance(codes, list) else []
