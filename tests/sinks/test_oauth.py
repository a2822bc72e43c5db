"""Refreshes at a real token endpoint on this machine; answers shaped as Google's, Microsoft's."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from formrelay.core.errors import (
    ConfigError,
    SinkBusy,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)
from formrelay.sinks.oauth import GOOGLE, OAuthClient, Provider, microsoft
from formrelay.state.connections import GrantRefused
from tests.support.token_endpoint import TokenEndpoint, token_endpoint

DAY = timedelta(days=1)


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    with token_endpoint() as running:
        yield running


def client_of(endpoint: TokenEndpoint, name: str = "google", **options: Any) -> OAuthClient:
    return OAuthClient(Provider(name, endpoint.url), "client", lambda: "hunter2", **options)


def error_of(
    endpoint: TokenEndpoint,
    status: int,
    body: Any,
    headers: dict[str, str] | None = None,
    name: str = "google",
) -> Any:
    endpoint.answers.append((status, headers or {}, body))
    with pytest.raises(SinkTransient) as info:
        client_of(endpoint, name).refresh("R0-hunter2")
    said = str(info.value)
    assert "hunter2" not in said
    assert "ann@" not in said
    assert "\n" not in said
    return info.value


def test_a_refresh_sends_the_form_of_rfc_6749(endpoint: TokenEndpoint) -> None:
    found = client_of(endpoint, scope="a b").refresh("R0")
    assert (found.access_token, found.lasts, found.refresh_token) == (
        "A1",
        3600 * DAY / 86400,
        None,
    )
    assert endpoint.forms == [
        {
            "grant_type": "refresh_token",
            "refresh_token": "R0",
            "client_id": "client",
            "client_secret": "hunter2",
            "scope": "a b",
        }
    ]
    OAuthClient(Provider("microsoft", endpoint.url), "public", lambda: None).refresh("R0")
    assert endpoint.forms[1].keys() == {"grant_type", "refresh_token", "client_id"}


def test_a_rotated_token_and_other_fields_are_read(endpoint: TokenEndpoint) -> None:
    body = {"access_token": "A", "expires_in": "3599", "refresh_token": "R", "scope": "mail"}
    endpoint.answers.append((200, {}, {**body, "token_type": "bearer"}))
    found = client_of(endpoint).refresh("R0")
    assert (found.lasts, found.refresh_token) == (timedelta(seconds=3599), "R")
    assert found.scope == "mail"
    for expires_in, lasts in (
        (None, 600),
        ("soon", 600),
        (-5, 1),
        ("nan", 1),
        (1e300, 366 * 86_400),
    ):
        endpoint.answers.append((200, {}, {"access_token": "A", "expires_in": expires_in}))
        assert client_of(endpoint).refresh("R0").lasts == timedelta(seconds=lasts)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>ann@example.org</html>", [], {}, {"access_token": ""}, {"access_token": 5},
        {"access_token": "A\r\nX: y"}, {"access_token": "A", "token_type": "mac"},
        {"access_token": "A", "refresh_token": ""}, {"error": "invalid_grant"},
        b'{"access_token": "' + b"A" * 2_000_000 + b'"}',
    ],
    ids=lambda body: repr(body)[:40],
)  # fmt: skip
def test_an_answer_of_another_shape_is_an_error_that_may_pass(
    endpoint: TokenEndpoint, body: Any
) -> None:
    error = error_of(endpoint, 200, body)
    assert type(error) is SinkTransient
    assert "expected a bearer token from the token endpoint of google" in str(error)


def test_googles_invalid_grant_names_the_likely_cause(endpoint: TokenEndpoint) -> None:
    body = {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
    error = error_of(endpoint, 400, body)
    assert isinstance(error, GrantRefused)
    assert error.code == 400
    for part in ("revoked the access", "'Testing'", "7 days", "6 months", "100 newer tokens"):
        assert part in error.cause
    guess = error.guess
    assert guess is not None
    assert "'Testing'" in guess(7 * DAY, timedelta(hours=1))
    assert "6 months" in guess(400 * DAY, 181 * DAY)
    assert guess(100 * DAY, DAY) is None
    error = error_of(endpoint, 400, {**body, "error_subtype": "invalid_rapt"})
    assert "session control" in error.cause


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (50173, "password was changed"), (700082, "90 days"), (65001, "consent was revoked"),
        (50076, "second factor"), (53003, "Conditional Access"), (50057, "disabled"),
        (700084, "single-page"), (99999, "revoked the access"),
    ],
)  # fmt: skip
def test_microsofts_codes_name_the_cause(endpoint: TokenEndpoint, code: int, said: str) -> None:
    body = {
        "error": "invalid_grant",
        "error_description": f"AADSTS{code}: ann@example.org may not. Trace ID: 1",
        "error_codes": [code],
    }
    error = error_of(endpoint, 400, body, name="microsoft")
    assert isinstance(error, GrantRefused)
    assert said in error.cause


@pytest.mark.parametrize("error", ["interaction_required", "consent_required", "login_required"])
def test_a_new_sign_in_that_is_asked_for_pauses_too(endpoint: TokenEndpoint, error: str) -> None:
    assert isinstance(error_of(endpoint, 400, {"error": error}), GrantRefused)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, {"error": "invalid_client"}, "client id and secret"),
        (401, {"error": "deleted_client"}, "was deleted"),
        (400, {"error": "invalid_scope"}, "scope"),
        (400, {"error": "unauthorized_client"}, "refresh tokens"),
        (400, {"error": "admin_policy_enforced"}, "policy"),
        (401, {"error": "invalid_client", "error_codes": [7000222]}, "secret has expired"),
        (401, {"error": "invalid_client", "error_codes": [7000215]}, "not its id"),
        (400, {"error": "ann@example.org"}, "without an error that is known"),
        (400, {"error": ["invalid_grant"]}, "without an error that is known"),
        (404, b"<html>not here</html>", "got 404"),
        (302, b"", "got 302"),
    ],
)
def test_what_an_operator_has_to_mend_is_unready(
    endpoint: TokenEndpoint, status: int, body: Any, said: str
) -> None:
    error = error_of(endpoint, status, body)
    assert type(error) is SinkUnready
    assert said in str(error)
    assert error.code == status


def test_a_busy_or_broken_provider_may_work_later(endpoint: TokenEndpoint) -> None:
    error = error_of(endpoint, 429, {"error": "rate_limit_exceeded"}, {"Retry-After": "30"})
    assert isinstance(error, SinkBusy)
    assert error.retry_after == timedelta(seconds=30)
    assert isinstance(error_of(endpoint, 503, b"busy"), SinkBusy)
    assert isinstance(error_of(endpoint, 400, {"error": "temporarily_unavailable"}), SinkBusy)
    assert type(error_of(endpoint, 500, {"error": "internal_failure"})) is SinkTransient
    assert type(error_of(endpoint, 400, {"error": "server_error"})) is SinkTransient


def test_a_provider_that_cannot_be_reached_or_does_not_answer(endpoint: TokenEndpoint) -> None:
    closed = Provider("google", "http://127.0.0.1:1/token")
    with pytest.raises(SinkUnavailable, match="expected to connect to the token endpoint"):
        OAuthClient(closed, "client", lambda: None).refresh("R0")
    endpoint.may_answer.clear()
    silent = client_of(endpoint, timeout=timedelta(milliseconds=200))
    with pytest.raises(SinkTransient, match="did not answer") as info:
        silent.refresh("R0")
    assert type(info.value) is SinkTransient


def test_without_a_refresh_token_nothing_is_sent(endpoint: TokenEndpoint) -> None:
    with pytest.raises(GrantRefused, match=r"no refresh token.*offline"):
        client_of(endpoint).refresh("")
    assert endpoint.forms == []


@pytest.mark.parametrize(
    "url", ["http://example.org/token", "ftp://127.0.0.1/", "https:///token", "token", ""]
)
def test_secrets_are_sent_over_tls_only(url: str) -> None:
    with pytest.raises(ConfigError, match="expected the token endpoint of google to be https"):
        Provider("google", url)


def test_the_addresses_of_google_and_microsoft() -> None:
    assert GOOGLE.token_url == "https://oauth2.googleapis.com/token"
    path = "/a%2Fb/oauth2/v2.0/token"
    assert microsoft("a/b").token_url == f"https://login.microsoftonline.com{path}"
