"""The token endpoint of the stand-in: refresh tokens, and assertions of service accounts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import count
from typing import Any


@dataclass
class Grant:
    """What a person has consented to."""

    user: str
    refresh_token: str
    is_revoked: bool = False


@dataclass
class TokenServer:
    """Access tokens and grants.

    Attributes:
        rotates: whether a refresh replaces the refresh token. If an old one is used again, the
            whole grant is revoked.
        lasts: seconds that an access token lasts.
        keys: public key (PEM) of each service account, by its e-mail address.
        refreshes: number of refreshes.
    """

    rotates: bool = False
    lasts: float = 3600
    grants: list[Grant] = field(default_factory=list)
    keys: dict[str, bytes] = field(default_factory=dict)
    refreshes: int = 0
    access: dict[str, tuple[str, float, Grant | None]] = field(default_factory=dict)
    _old: dict[str, Grant] = field(default_factory=dict)
    _numbers: Any = field(default_factory=lambda: count(1))

    def consent(self, user: str) -> str:
        """A person consents; returns the refresh token."""
        grant = Grant(user, f"1//refresh-{user}-{next(self._numbers)}")
        self.grants.append(grant)
        return grant.refresh_token

    def revoke(self, user: str) -> None:
        """A person takes the access away: all tokens end at once."""
        for grant in self.grants:
            grant.is_revoked = grant.is_revoked or grant.user == user

    def expire(self) -> None:
        """All access tokens end now."""
        self.access = {token: (user, 0.0, grant) for token, (user, _, grant) in self.access.items()}

    def new_access(self, user: str, grant: Grant | None = None) -> str:
        token = f"ya29.{user}-{next(self._numbers)}"
        self.access[token] = (user, time.time() + self.lasts, grant)
        return token

    def user_of(self, token: str) -> str | None:
        """The user of an access token; None if it is not valid."""
        user, ends_at, grant = self.access.get(token, ("", 0.0, None))
        is_valid = ends_at > time.time() and not (grant and grant.is_revoked)
        return user if is_valid else None

    def answer(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Answer a token request: its status and body."""
        match form.get("grant_type"):
            case "refresh_token":
                return self._refresh(form)
            case "urn:ietf:params:oauth:grant-type:jwt-bearer":
                return self._assertion(form.get("assertion", ""))
        return 400, {"error": "unsupported_grant_type", "error_description": "Invalid grant_type"}

    def _refresh(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if (form.get("client_id"), form.get("client_secret")) != ("client", "secret"):
            return 401, {"error": "invalid_client", "error_description": "Unauthorized"}
        self.refreshes += 1
        token = form.get("refresh_token", "")
        if reused := self._old.get(token):
            reused.is_revoked = True
        grant = next((one for one in self.grants if one.refresh_token == token), None)
        if grant is None or grant.is_revoked:
            return _invalid_grant("Token has been expired or revoked.")
        body = self._body(grant.user, grant)
        if self.rotates:
            self._old[token] = grant
            grant.refresh_token = f"1//refresh-{grant.user}-{next(self._numbers)}"
            body["refresh_token"] = grant.refresh_token
        return 200, body

    def _assertion(self, assertion: str) -> tuple[int, dict[str, Any]]:
        from google.auth import jwt

        email = jwt.decode(assertion, verify=False).get("iss", "")
        try:
            found = jwt.decode(assertion, certs=self.keys.get(email, b""))
        except ValueError as error:
            return _invalid_grant(f"Invalid JWT: {error}")
        if "spreadsheets" not in found.get("scope", ""):
            return 400, {"error": "invalid_scope", "error_description": "Invalid scope"}
        return 200, self._body(found.get("sub", email), None)

    def _body(self, user: str, grant: Grant | None) -> dict[str, Any]:
        return {
            "access_token": self.new_access(user, grant),
            "expires_in": int(self.lasts),
            "scope": "https://www.googleapis.com/auth/spreadsheets",
            "token_type": "Bearer",
        }


def _invalid_grant(why: str) -> tuple[int, dict[str, Any]]:
    return 400, {"error": "invalid_grant", "error_description": why}
