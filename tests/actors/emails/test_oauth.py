"""The OAuth token that logs in at the SMTP server: refreshed once for all workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from formrelay.actors.emails.oauth import make_token
from formrelay.config import get_settings
from formrelay.core.errors import ConfigError, SinkUnready
from formrelay.sinks.oauth import Provider
from tests.actors.conftest import Site
from tests.support.token_endpoint import TokenEndpoint, token_endpoint


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    with token_endpoint(rotates=True) as found:
        yield found


def configure(site: Site, *, refresh_token: str = "R0", key: str | None = None) -> None:
    found = Fernet.generate_key().decode() if key is None else key
    smtp = {
        "url": SecretStr("smtp://127.0.0.1:1"),
        "user": "forms@sender.example",
        "oauth_provider": "google",
        "oauth_client_id": "client",
        "oauth_refresh_token": SecretStr(refresh_token),
    }
    site.use(smtp=smtp, broker={"state_key": SecretStr(found) if found else None})


def token_of(endpoint: TokenEndpoint) -> Callable[[bool], str]:
    """What each worker has."""
    found = make_token(get_settings(), Provider("google", endpoint.url))
    assert found is not None
    return found


def test_workers_share_a_token_whose_refresh_token_rotates(
    site: Site, endpoint: TokenEndpoint
) -> None:
    configure(site)
    assert [token_of(endpoint)(False) for _ in range(3)] == ["A1"] * 3
    assert [form["refresh_token"] for form in endpoint.forms] == ["R0"]


def test_a_token_refused_right_after_its_refresh_is_not_refreshed_again(
    site: Site, endpoint: TokenEndpoint
) -> None:
    configure(site)
    token = token_of(endpoint)
    assert (token(False), token(True)) == ("A1", "A1")
    assert len(endpoint.forms) == 1


def test_a_refused_consent_waits_for_another_refresh_token(
    site: Site, endpoint: TokenEndpoint
) -> None:
    configure(site, refresh_token="old")
    token = token_of(endpoint)
    for _ in range(2):
        with pytest.raises(SinkUnready):
            token(False)
    assert len(endpoint.forms) == 1  # paused: nobody asks again
    configure(site)
    assert token_of(endpoint)(False).startswith("A")


def test_tokens_are_not_stored_without_a_key(site: Site, endpoint: TokenEndpoint) -> None:
    configure(site, key="")
    with pytest.raises(ConfigError, match="STATE_KEY"):
        token_of(endpoint)


def test_there_is_no_token_without_a_provider(site: Site) -> None:
    assert make_token(get_settings()) is None
