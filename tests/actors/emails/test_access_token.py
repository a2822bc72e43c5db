"""The OAuth token that logs in at the SMTP server: refreshed once for all workers."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from formrelay.actors import resources
from formrelay.actors.emails import access_token
from formrelay.actors.emails.access_token import make_token
from formrelay.actors.emails.resources import email_resources, make_account
from formrelay.config import get_settings
from formrelay.core.errors import ConfigError, SinkUnready
from formrelay.sinks.oauth import Provider
from formrelay.sinks.smtp.pool import Pool
from formrelay.state import StateRedis, make_tokens
from formrelay.state.redis.client import RedisClient
from tests.actors.conftest import Site
from tests.actors.emails.conftest import Mailing
from tests.middleware.lines import Lines
from tests.sinks.smtp.accounts import MESSAGE
from tests.sinks.smtp.scripted import Scripted, Talk, scripted
from tests.support.token_endpoint import TokenEndpoint, token_endpoint
from tests.support.waiting import wait_until


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


# -- logging in ---------------------------------------------------------------------------------

OFFER = b"250-here\r\n250 AUTH XOAUTH2\r\n"
ANN = "ann@one.example"


class Guarded(Scripted):
    """An SMTP server that accepts some access tokens.

    Attributes:
        valid: the tokens.
        tried: the tokens that were tried.
    """

    def __init__(self) -> None:
        super().__init__(always={"EHLO": OFFER, "AUTH": self.check, "NOOP": b"535 5.7.8 bad\r\n"})
        self.valid: set[str] = set()
        self.tried: list[str] = []

    def check(self, _: Scripted, talk: Talk) -> bytes:
        response = base64.b64decode(talk.commands[-1].split(" ")[2]).decode()
        token = response.partition("Bearer ")[2].rstrip("\x01")
        assert response.startswith("user=forms@sender.example\x01auth=Bearer ")
        self.tried.append(token)
        if token in self.valid:
            return b"235 2.7.0 hello\r\n"
        return b"334 eyJzdGF0dXMiOiI0MDEifQ==\r\n"  # the answer to it is in "NOOP"


@pytest.fixture
def guarded(
    mailing: Mailing, endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Guarded]:
    monkeypatch.setattr(access_token, "GOOGLE", Provider("google", endpoint.url))
    with scripted(Guarded()) as found:
        assert isinstance(found, Guarded)
        use(mailing, found)
        yield found


def use(mailing: Mailing, server: Scripted, *, refresh_token: str = "R0") -> None:
    configure(mailing.site, refresh_token=refresh_token, key=KEY)
    settings = get_settings()
    changes = {"url": SecretStr(f"smtp+none://127.0.0.1:{server.port}"), "max_messages": 1}
    smtp = settings.smtp.model_copy(update=changes)
    emails = settings.emails.model_copy(update={"sender": "forms@sender.example"})
    mailing.site.use(smtp=dict(smtp), emails=dict(emails), broker=dict(settings.broker))


KEY = Fernet.generate_key().decode()


def workers() -> list[Pool]:
    """The pools of two workers."""
    return [Pool(make_account(get_settings())) for _ in range(2)]


def send_at_once(pools: list[Pool]) -> list[int]:
    with ThreadPoolExecutor(len(pools)) as threads:
        sent = [threads.submit(pool.send, "a@b.example", [ANN], MESSAGE) for pool in pools]
        return [one.result(30)[0].code for one in sent]


def test_two_workers_log_in_with_one_refresh(guarded: Guarded, endpoint: TokenEndpoint) -> None:
    guarded.valid = {"A1"}
    pools = workers()
    assert send_at_once(pools) == [250, 250]
    assert guarded.tried == ["A1", "A1"]
    assert len(endpoint.forms) == 1
    for pool in pools:
        pool.close()


def test_a_token_that_the_server_refuses_is_refreshed_once_by_two_workers(
    guarded: Guarded, endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formrelay.state.tokens._FRESH", 0.0)  # as if refreshed long ago
    guarded.valid = {"A1"}
    pools = workers()
    assert send_at_once(pools) == [250, 250]
    guarded.valid = {"A2"}  # the old one was revoked
    assert send_at_once(pools) == [250, 250]
    assert set(guarded.tried) == {"A1", "A2"}
    assert len(endpoint.forms) == 2
    for pool in pools:
        pool.close()


def test_an_ended_consent_stops_the_queue_with_its_likely_cause(
    guarded: Guarded, mailing: Mailing, endpoint: TokenEndpoint, lines: Lines, short_pauses: None
) -> None:
    endpoint.live = set()
    guarded.valid = {"A1", "A2"}
    mailing.send()
    mailing.site.start("emails")
    wait_until(lambda: len(lines.attempts()) >= 1)
    mailing.site.stop()
    assert {(each["outcome"], each["attempt"]) for each in lines.attempts()} == {("defer", 1)}
    (paused,) = lines.of("pausing connection: its consent has ended")
    assert paused["level"] == "ERROR"
    (stopped,) = lines.of("pausing consumption: the SMTP server is unavailable")
    assert stopped["level"] == "ERROR"
    for line in (paused, stopped):
        assert "the person revoked the access" in line["errorMessage"]
    assert "SMTP_OAUTH_REFRESH_TOKEN" in stopped["errorMessage"]
    assert len(endpoint.forms) == 1
    endpoint.live = {"R9"}
    use(mailing, guarded, refresh_token="R9")  # a new consent
    broker: Any = mailing.site.broker
    scheduled = broker.keys.scheduled("emails")
    for id in broker.client.zrange(scheduled, 0, -1):
        broker.client.zadd(scheduled, {id: 1})  # ten minutes have passed
    mailing.work_off()
    assert mailing.site.dead("emails") == []
    assert len(guarded.messages) == 1
    assert not any(secret in lines.text for secret in ("R0", "R9", "A1", "A2"))


def test_a_store_that_is_away_at_the_login_uses_no_attempt(
    guarded: Guarded, mailing: Mailing, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded.valid = {"A1"}
    away = StateRedis(RedisClient.from_url("redis://127.0.0.1:1/0"), "127.0.0.1:1")
    with monkeypatch.context() as patched:
        patched.setattr(resources, "make_tokens", lambda _, *rest: make_tokens(away, *rest))
        failing = Pool(make_account(get_settings()))
    email_resources.made[:] = [replace(email_resources(), pool=failing)]
    mailing.send()
    mailing.site.start("emails")
    wait_until(lambda: len(lines.attempts()) >= 1)
    mailing.site.stop()
    (line,) = lines.attempts()
    assert (line["outcome"], line["attempt"]) == ("defer", 1)
    assert "the shared store failed" in line["errorMessage"]
    failing.close()
