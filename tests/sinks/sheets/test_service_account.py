"""Service accounts: real keys, checked by the stand-in's token server."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from formrelay.core.errors import ConfigError, SinkTransient, SinkUnavailable, SinkUnready
from formrelay.sinks.sheets import HttpTransport
from formrelay.sinks.sheets.service_account import ServiceAccount
from tests.support.google import DirectTransport, Google

EMAIL = "rows@project.iam.gserviceaccount.com"


def pem(key: Any) -> tuple[str, bytes]:
    """The private and the public key in PEM."""
    from cryptography.hazmat.primitives import serialization as form

    private = key.private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
    ).decode()
    public = key.public_key().public_bytes(
        form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public


@pytest.fixture(scope="session")
def keys() -> list[tuple[str, bytes]]:
    from cryptography.hazmat.primitives.asymmetric import rsa

    return [pem(rsa.generate_private_key(65537, 2048)) for _ in range(2)]


def key_file(private: str, **changes: Any) -> str:
    found = {
        "type": "service_account",
        "client_email": EMAIL,
        "private_key": private,
        "token_uri": "http://127.0.0.1:9/token",
    }
    return json.dumps(found | changes)


def test_a_token_is_minted_and_accepted(google: Google, keys: list[tuple[str, bytes]]) -> None:
    google.tokens.keys[EMAIL] = keys[0][1]
    account = ServiceAccount(key_file(keys[0][0]), DirectTransport(google))
    minted = account.mint()
    assert google.tokens.user_of(minted.access_token) == EMAIL
    assert timedelta(minutes=55) < minted.lasts <= timedelta(hours=1)
    assert minted.access_token not in repr(minted)
    assert account.email == EMAIL
    other = ServiceAccount(key_file(keys[0][0]), DirectTransport(google), subject="ann@x.example")
    assert google.tokens.user_of(other.mint().access_token) == "ann@x.example"


def test_a_wrong_key_is_a_clear_error(google: Google, keys: list[tuple[str, bytes]]) -> None:
    google.tokens.keys[EMAIL] = keys[1][1]
    account = ServiceAccount(key_file(keys[0][0]), DirectTransport(google))
    with pytest.raises(SinkUnready, match=r"\(invalid_grant\): check its key"):
        account.mint()


def test_a_token_server_that_is_away_is_unavailable(keys: list[tuple[str, bytes]]) -> None:
    account = ServiceAccount(key_file(keys[0][0]), HttpTransport())
    with pytest.raises(SinkUnavailable):
        account.mint()


def test_a_failing_token_server_is_transient(
    google: Google, keys: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # google-auth tries again
    google.tokens.answer = lambda form: (503, {"error": "temporarily_unavailable"})
    account = ServiceAccount(key_file(keys[0][0]), DirectTransport(google))
    with pytest.raises(SinkTransient):
        account.mint()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("{", "to be JSON"),
        ("[]", "to be a JSON object"),
        ('{"client_email": "x"}', "client_email, private_key, token_uri"),
        (key_file("secret-but-no-key"), "private key in PEM"),
    ],
)
def test_a_malformed_key_is_a_clear_error(google: Google, key: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        ServiceAccount(key, DirectTransport(google))
    assert "secret" not in str(caught.value)
