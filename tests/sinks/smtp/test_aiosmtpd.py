"""TLS and logins against aiosmtpd, a real server, in this process."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from formrelay.core.errors import ConfigError, SinkUnavailable, SinkUnready
from formrelay.sinks.smtp.account import Account, make_tls_context
from formrelay.sinks.smtp.pool import Pool
from tests.sinks.smtp.accounts import ANN, BEN, MESSAGE, SENDER, account
from tests.support.certificates import Authority

USER, PASSWORD = "forms-account", "pass word-ü-5391"


class Mailbox:
    """Keeps what was accepted, and the logins and tokens that were tried."""

    def __init__(self) -> None:
        self.accepted: list[tuple[str, list[str], bytes]] = []
        self.logins: list[tuple[str, str]] = []
        self.tokens: list[str] = []
        self.good_token = "token-2"
        self.challenge = True

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.accepted.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return "250 2.0.0 accepted"

    def check(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> Any:
        assert isinstance(data, LoginPassword)
        self.logins.append((mechanism, data.password.decode()))
        is_right = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        return AuthResult(success=is_right, handled=is_right)

    async def auth_XOAUTH2(self, server: SMTP, args: list[str]) -> Any:
        response = base64.b64decode(args[1]).decode()
        user, token, *rest = response.split("\x01")
        self.tokens.append(token.removeprefix("auth=Bearer "))
        if user == f"user={USER}" and self.tokens[-1] == self.good_token and rest == ["", ""]:
            return AuthResult(success=True)
        if self.challenge:
            error = b'{"status":"401","schemes":"bearer"}'
            await server.push(f"334 {base64.b64encode(error).decode()}")
            assert await server._reader.readuntil() == b"\r\n"
        await server.push(f"535 5.7.8 refused {USER} {self.tokens[-1]}")
        return AuthResult(success=False, handled=True)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("smtp-ca"))


@contextmanager
def serving(
    mailbox: Mailbox, *, ssl_context: ssl.SSLContext | None = None, **options: Any
) -> Iterator[int]:
    """Run aiosmtpd in a thread; yields its port.

    Not its Controller: that tests the server with a client that trusts no authority of ours.
    """
    loop = asyncio.new_event_loop()

    def make() -> SMTP:
        return SMTP(mailbox, loop=loop, hostname="here", authenticator=mailbox.check, **options)

    with ThreadPoolExecutor(1) as thread:
        starting = loop.create_server(make, "127.0.0.1", 0, ssl=ssl_context)
        server = thread.submit(loop.run_until_complete, starting).result(60)
        running = thread.submit(loop.run_forever)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            loop.call_soon_threadsafe(server.close)
            loop.call_soon_threadsafe(loop.stop)
            running.result(60)
            loop.close()


def using(authority: Authority, port: int, **changes: Any) -> Account:
    context = make_tls_context(authority.certificate)
    return account(port, **{"security": "starttls", "tls_context": context, **changes})


def logging_in(**changes: Any) -> dict[str, Any]:
    return {"user": USER, "password": lambda: PASSWORD, **changes}


def send(found: Account) -> list[str]:
    pool = Pool(found)
    try:
        return [reply.kind for reply in pool.send(SENDER, [ANN, BEN], MESSAGE)]
    finally:
        pool.close()


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_sends_over_tls_after_a_login(authority: Authority, security: str) -> None:
    mailbox = Mailbox()
    tls = authority.server_side(security)
    options = {"ssl_context": tls} if security == "tls" else {"tls_context": tls}
    with serving(mailbox, auth_required=True, auth_require_tls=security != "tls", **options) as at:
        assert send(using(authority, at, security=security, **logging_in())) == ["accepted"] * 2
    assert mailbox.accepted == [(SENDER, [ANN, BEN], MESSAGE)]
    assert mailbox.logins == [("PLAIN", PASSWORD)]


def test_logs_in_with_login_where_plain_is_not_offered(authority: Authority) -> None:
    mailbox = Mailbox()
    tls = authority.server_side("login")
    with serving(mailbox, tls_context=tls, auth_exclude_mechanism=["PLAIN"]) as at:
        assert send(using(authority, at, **logging_in())) == ["accepted"] * 2
    assert mailbox.logins == [("LOGIN", PASSWORD)]


def test_a_wrong_password_is_tried_once_and_named_in_no_error(authority: Authority) -> None:
    mailbox = Mailbox()
    with serving(mailbox, tls_context=authority.server_side("wrong")) as at:
        wrong = "not-the-password"
        with pytest.raises(SinkUnready, match="refuses the login: 535") as caught:
            send(using(authority, at, **logging_in(password=lambda: wrong)))
    assert mailbox.logins == [("PLAIN", wrong)]
    assert caught.value.code == 535
    assert wrong not in str(caught.value)


@pytest.mark.parametrize("challenge", [True, False])
def test_a_refused_token_is_refreshed_once(authority: Authority, challenge: bool) -> None:
    mailbox = Mailbox()
    mailbox.challenge = challenge
    asked: list[bool] = []

    def token(is_new: bool) -> str:
        asked.append(is_new)
        return "token-2" if is_new else "token-1"

    with serving(mailbox, tls_context=authority.server_side("token")) as at:
        found = using(authority, at, user=USER, token=token)
        assert send(found) == ["accepted"] * 2
        assert asked == [False, True]
        assert mailbox.tokens == ["token-1", "token-2"]
        mailbox.good_token = "token-3"
        with pytest.raises(SinkUnready, match=r"535 5\.7\.8") as caught:
            send(found)
    assert mailbox.tokens == ["token-1", "token-2"] * 2
    assert "token-2" not in str(caught.value)
    assert USER not in str(caught.value)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_an_untrusted_certificate_is_refused(authority: Authority, security: str) -> None:
    mailbox = Mailbox()
    tls = authority.server_side("unknown")
    options = {"ssl_context": tls} if security == "tls" else {"tls_context": tls}
    with serving(mailbox, **options) as at:
        for changes in ({"tls_context": None}, {"host": "127.0.0.1"}):
            found = using(authority, at, security=security, **logging_in(**changes))
            with pytest.raises(SinkUnready, match="its certificate is not trusted"):
                send(found)
    assert not mailbox.logins
    assert not mailbox.accepted


def test_an_expired_certificate_is_refused(authority: Authority) -> None:
    tls = authority.server_side("expired", ends=timedelta(days=-1))
    with (
        serving(Mailbox(), tls_context=tls) as at,
        pytest.raises(SinkUnready, match="certificate has expired"),
    ):
        send(using(authority, at))


def test_a_server_without_starttls_gets_neither_login_nor_message(authority: Authority) -> None:
    mailbox = Mailbox()
    with (
        serving(mailbox, auth_require_tls=False) as at,
        pytest.raises(SinkUnready, match="expected it to offer STARTTLS"),
    ):
        send(using(authority, at, **logging_in()))
    assert not mailbox.logins
    assert not mailbox.accepted


def test_the_wrong_kind_of_tls_is_a_clear_error(authority: Authority) -> None:
    with (
        serving(Mailbox(), tls_context=authority.server_side("kind")) as at,
        pytest.raises(SinkUnavailable, match="TLS handshake failed"),
    ):
        send(using(authority, at, security="tls"))


def test_a_login_that_the_server_does_not_offer_is_refused(authority: Authority) -> None:
    tls = authority.server_side("none")
    with (
        serving(Mailbox(), tls_context=tls, auth_exclude_mechanism=["PLAIN", "LOGIN"]) as at,
        pytest.raises(SinkUnready, match="offer PLAIN or LOGIN, it offers XOAUTH2"),
    ):
        send(using(authority, at, **logging_in()))


def test_a_session_is_used_for_many_messages_under_tls(authority: Authority) -> None:
    # A session ticket of TLS 1.3 is input too, and must not be taken for a reply.
    mailbox = Mailbox()
    with serving(mailbox, tls_context=authority.server_side("many")) as at:
        pool = Pool(using(authority, at, **logging_in()))
        for _ in range(20):
            pool.send(SENDER, [ANN], MESSAGE)
        pool.close()
    assert len(mailbox.accepted) == 20
    assert len(mailbox.logins) == 1


def test_smtputf8_addresses_arrive(authority: Authority) -> None:
    mailbox = Mailbox()
    with serving(mailbox, tls_context=authority.server_side("utf8"), enable_SMTPUTF8=True) as at:
        pool = Pool(using(authority, at))
        (reply,) = pool.send(SENDER, ["jörg@there.example"], MESSAGE, smtputf8=True)
        pool.close()
    assert reply.kind == "accepted"
    assert mailbox.accepted[0][1] == ["jörg@there.example"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"host": "mail.there.example", **logging_in()}, "would be sent unencrypted"),
        ({"security": "ssl"}, "'starttls', 'tls' or 'none', got 'ssl'"),
        ({"user": USER}, "expected a password or a token"),
        ({"token": lambda _: "t"}, "expected an SMTP user"),
        ({"max_connections": 0}, "max_connections to be at least 1, got 0"),
        ({"client_name": "a b\r\n"}, "client name"),
    ],
)
def test_wrong_accounts_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        account(25, **changes)
    assert PASSWORD not in str(caught.value)


def test_a_context_without_checks_and_a_file_without_certificates_are_refused(
    tmp_path: Path,
) -> None:
    unchecked = ssl.create_default_context()
    unchecked.check_hostname = False
    with pytest.raises(ConfigError, match="checks the server's certificate"):
        account(25, tls_context=unchecked)
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(ConfigError, match=f"PEM file of certificate authorities at .*{name}"):
            make_tls_context(tmp_path / name)


def test_an_account_shows_no_secret() -> None:
    shown = repr(account(25, **logging_in()))
    assert USER not in shown
    assert PASSWORD not in shown
