"""Makes access tokens of Google service accounts by google-auth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from ...core.errors import ConfigError, SinkTransient, SinkUnavailable, SinkUnready
from ..http.blocking import RequestFailed
from .client import Transport

SCOPE = "https://www.googleapis.com/auth/spreadsheets"
_TIMEOUT = (5.0, 20.0)
_NEEDED = ("client_email", "private_key", "token_uri")


@dataclass(frozen=True, slots=True)
class Minted:
    """A new access token and how long it lasts."""

    access_token: str = field(repr=False)
    lasts: timedelta


class ServiceAccount:
    """A service account. Thread-safe.

    Args:
        key: the content of its key file, JSON.
        transport: sends the requests.
        subject: e-mail address of the person for whom it acts (domain-wide delegation).

    Raises:
        ConfigError: the key is malformed, or google-auth is not installed.
    """

    def __init__(
        self, key: str | bytes, transport: Transport, *, subject: str | None = None
    ) -> None:
        try:
            info = orjson.loads(key)
        except orjson.JSONDecodeError:
            raise _malformed("JSON") from None
        if not isinstance(info, dict) or not all(isinstance(info.get(x), str) for x in _NEEDED):
            raise _malformed("a JSON object with " + ", ".join(_NEEDED))
        self.email: str = info["client_email"]
        self._info, self._subject, self._transport = info, subject, transport
        self._make()

    def mint(self) -> Minted:
        """Get a new access token.

        Raises:
            SinkUnready: Google refuses the key or the account.
            SinkUnavailable, SinkTransient: Google's token server failed.
        """
        from google.auth.exceptions import GoogleAuthError

        credentials = self._make()  # a new object, since refresh() is not thread-safe
        try:
            credentials.refresh(self._request)
        except GoogleAuthError as error:
            if error.retryable:
                raise SinkTransient("Google's token server failed") from None
            raise SinkUnready(
                f"Google refuses the service account{_reason(error)}: check its key, that it is "
                "enabled, and that the clock of this machine is right"
            ) from None
        ends = credentials.expiry.replace(tzinfo=UTC)
        return Minted(str(credentials.token), ends - datetime.now(UTC))

    def _make(self) -> Any:
        try:
            from google.oauth2.service_account import Credentials
        except ImportError:
            raise ConfigError(
                "service accounts need google-auth: pip install 'formrelay[sheets]'"
            ) from None
        make: Any = Credentials.from_service_account_info
        try:
            return make(self._info, scopes=[SCOPE], subject=self._subject)
        except Exception:  # of many kinds, whose texts may quote the key
            raise _malformed("a private key in PEM") from None

    def _request(
        self,
        url: str,
        method: str = "GET",
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: object = None,
        **_: object,
    ) -> _Response:
        """A request of google-auth."""
        data = body.encode() if isinstance(body, str) else body
        try:
            found = self._transport.request(method, url, headers or {}, data, _TIMEOUT)
        except RequestFailed as error:
            kind = SinkTransient if error.was_sent else SinkUnavailable
            raise kind("expected Google's token server to answer, it did not") from None
        return _Response(found.status, found.headers, found.body)


@dataclass(frozen=True, slots=True)
class _Response:
    """A response as google-auth expects it."""

    status: int
    headers: Mapping[str, str]
    data: bytes


def _reason(error: Exception) -> str:
    """The OAuth error of a refusal, such as ``(invalid_grant)``."""
    details = next((each for each in error.args if isinstance(each, Mapping)), {})
    reason = details.get("error")
    is_known = isinstance(reason, str) and reason.isidentifier() and len(reason) < 50
    return f" ({reason})" if is_known else ""


def _malformed(expected: str) -> ConfigError:
    return ConfigError(
        f"expected the key of the service account to be {expected}, it is not: download a new key "
        "from the Google console"
    )
