"""The session cookie: role, name and start, signed with a key made of the role's token."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass

#: Seconds after which a session ends.
MAX_AGE = 12 * 3_600
_PURPOSE = b"formrelay dashboard session 1"


@dataclass(frozen=True, slots=True)
class Session:
    """A login.

    Attributes:
        name: what the person calls themselves.
        began: unix seconds.
    """

    role: str
    name: str
    began: float


def sign_session(session: Session, token: str) -> str:
    """Return the value of the cookie."""
    text = json.dumps([session.role, session.name, int(session.began)])
    body = urlsafe_b64encode(text.encode())
    return f"{body.decode()}.{_signature(body, token)}"


def read_session(value: str, tokens: Mapping[str, str], *, now: float) -> Session | None:
    """Return the session of a cookie; None if it is invalid or too old.

    Args:
        tokens: the current token of each role.
    """
    body, _, signature = value.encode("utf-8", "replace").partition(b".")
    # Before the body is decoded: it may come from anyone.
    signers = [
        role
        for role, token in tokens.items()
        if hmac.compare_digest(signature, _signature(body, token).encode())
    ]
    if not signers:
        return None
    session = Session(*json.loads(urlsafe_b64decode(body)))
    if session.role not in signers:
        return None
    return session if 0 <= now - session.began + 60 <= MAX_AGE + 60 else None


def _signature(body: bytes, token: str) -> str:
    key = hmac.digest(token.encode(), _PURPOSE, hashlib.sha256)
    return hmac.new(key, body, hashlib.sha256).hexdigest()
