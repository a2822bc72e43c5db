"""Attacks on STARTTLS, and everything that can go wrong in a login, against a scripted stand-in."""

from __future__ import annotations

import base64
import traceback
from typing import Any

import pytest

from formrelay.core.errors import SinkError, SinkUnavailable, SinkUnready
from formrelay.sinks.smtp.account import make_tls_context
from formrelay.sinks.smtp.pool import Pool
from tests.sinks.smtp.accounts import ANN, MESSAGE, SENDER, account, timeouts
from tests.sinks.smtp.scripted import Scripted, close, drip, scripted, stall, then_close
from tests.support.certificates import Authority

OFFER = b"250-here\r\n250-STARTTLS\r\n250-AUTH=LOGIN\r\n250 AUTH PLAIN XOAUTH2\r\n"
USER, PASSWORD = "forms-account", "correct-horse-5391"
BOTH = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("smtp-logins"))


def try_once(server: Scripted, **changes: Any) -> str:
    """Send with a login; returns "accepted", or the error's class and text."""
    pool = Pool(
        account(
            server.port,
            **{"user": USER, "password": lambda: PASSWORD, "timeouts": timeouts(0.5), **changes},
        )
    )
    try:
        (reply,) = pool.send(SENDER, [ANN], MESSAGE)
        return reply.kind
    except SinkError as error:
        shown = "".join(traceback.format_exception(error))
        secrets = (USER, PASSWORD, BOTH, base64.b64encode(PASSWORD.encode()).decode(), ANN)
        assert not [secret for secret in secrets if secret in shown]
        return f"{type(error).__name__} {error}"
    finally:
        pool.close()


def test_plain_text_behind_the_answer_to_starttls_is_refused(authority: Authority) -> None:
    # CVE-2011-0411: read later, it would stand for answers of the encrypted server.
    server = Scripted(
        {"STARTTLS": [b"220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n"]},
        {"EHLO": OFFER},
        tls=authority.server_side("injection"),
    )
    with scripted(server):
        context = make_tls_context(authority.certificate)
        found = try_once(server, security="starttls", tls_context=context)
        assert "plain text behind its answer to STARTTLS" in found
        assert try_once(server, security="starttls", tls_context=context) == "accepted"
    assert not [each for each in server.talks[0].commands if each.startswith(("AUTH", "MAIL"))]


@pytest.mark.parametrize(
    ("offer", "answer", "kind"),
    [
        (b"250-here\r\n250 AUTH PLAIN\r\n", None, "SinkUnready"),
        (b"250-here\r\n250 XSTARTTLS\r\n", None, "SinkUnready"),
        (b"502 what?\r\n", None, "SinkUnready"),  # HELO would send it unencrypted
        (OFFER, b"454 4.7.0 not now\r\n", "SinkUnavailable"),
        (OFFER, b"502 5.5.1 no\r\n", "SinkUnready"),
        (OFFER, b"250 ok\r\n", "SinkUnavailable"),
        (OFFER, close, "SinkUnavailable"),
        (OFFER, stall, "SinkUnavailable"),
        (OFFER, then_close(b"220 go\r\n"), "SinkUnavailable"),
        (OFFER, then_close(b"421 4.3.2 bye\r\n"), "Closing"),
    ],
)
@pytest.mark.parametrize("user", [USER, None])
def test_nothing_is_sent_unencrypted_when_starttls_fails(
    offer: bytes, answer: Any, kind: str, user: str | None
) -> None:
    server = Scripted(always={"EHLO": offer, **({"STARTTLS": answer} if answer else {})})
    with scripted(server):
        assert try_once(server, security="starttls", user=user).startswith(kind)
    assert not [each for each in server.commands if each.startswith(("AUTH", "MAIL", "HELO"))]


def test_what_was_offered_before_tls_does_not_count(authority: Authority) -> None:
    server = Scripted(
        {"EHLO": [OFFER, b"250 here\r\n"]}, tls=authority.server_side("features")
    )  # fmt: skip
    with scripted(server):
        context = make_tls_context(authority.certificate)
        found = try_once(server, security="starttls", tls_context=context)
    assert found.endswith("expected the server to offer PLAIN or LOGIN, it offers no login")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (f"535 5.7.8 {BOTH} {PASSWORD} x{PASSWORD}x\r\n".encode(), "SinkUnready"),
        (b"535 5.7.139 SmtpClientAuthentication is disabled for the Tenant\r\n", "SinkUnready"),
        (b"550 5.7.30 Basic authentication is not supported\r\n", "SinkUnready"),
        (b"534 5.7.9 Application-specific password required\r\n", "SinkUnready"),
        (b"432 4.7.12 password transition needed\r\n", "SinkUnready"),
        (b"454 4.7.0 Too many login attempts\r\n", "SinkUnavailable"),
        (then_close(b"421 4.7.0 bye\r\n"), "accepted"),
        (close, "SinkUnavailable"),
        (stall, "SinkUnavailable"),
        (drip, "SinkUnavailable"),
        (b"HTTP/1.1 400 Bad Request\r\n", "SinkUnavailable"),
        (b"250 ok\r\n", "SinkUnready"),
    ],
)
def test_a_failed_login_is_classified_and_the_next_one_works(answer: Any, kind: str) -> None:
    server = Scripted({"AUTH": [answer]}, {"EHLO": OFFER})
    with scripted(server):
        assert try_once(server).startswith(kind)
        assert try_once(server) == "accepted"


def test_hints_name_what_an_operator_has_to_do() -> None:
    server = Scripted({"AUTH": [b"550 5.7.30 Basic authentication is not supported\r\n"]})
    server.always["EHLO"] = OFFER
    with scripted(server):
        assert "set up XOAUTH2" in try_once(server)


def test_a_mechanism_that_is_not_there_after_all_is_followed_by_the_next() -> None:
    prompt = b"334 VXNlcm5hbWU6\r\n"
    server = Scripted(
        {"AUTH": [b"504 5.5.4 no\r\n", prompt], "NOOP": [prompt, b"235 2.7.0 hello\r\n"]},
        {"EHLO": OFFER},
    )
    with scripted(server):
        assert try_once(server) == "accepted"
    sent = [base64.b64encode(text.encode()).decode() for text in (USER, PASSWORD)]
    assert server.commands[1:5] == [f"AUTH PLAIN {BOTH}", "AUTH LOGIN", *sent]


def test_a_long_response_is_sent_as_a_line_of_its_own() -> None:
    server = Scripted({"AUTH": [b"334 \r\n"], "NOOP": [b"235 hello\r\n"]}, {"EHLO": OFFER})
    with scripted(server):
        assert try_once(server, password=lambda: "x" * 600) == "accepted"
    assert server.commands[1] == "AUTH PLAIN"


@pytest.mark.parametrize("password", [None, "", "a\0b"])
def test_an_unusable_password_is_not_sent(password: str | None) -> None:
    server = Scripted(always={"EHLO": OFFER})
    with scripted(server):
        assert try_once(server, password=lambda: password).startswith("SinkUnready")
    assert server.commands[1:] == []


def test_an_error_of_the_token_is_raised_as_it_is() -> None:
    def fail(_: bool) -> str:
        raise SinkUnready("the connection 'forms' is paused")

    server = Scripted(always={"EHLO": OFFER})
    with scripted(server):
        found = try_once(server, password=None, token=fail)
        assert found.endswith("the connection 'forms' is paused")
        assert try_once(server) == "accepted"


def test_nothing_that_listens_and_no_such_host_are_unavailable() -> None:
    server = Scripted()
    with scripted(server):
        port = server.port
    for host in ("127.0.0.1", "nowhere.invalid"):
        with pytest.raises(SinkUnavailable, match=f"SMTP server {host}:{port}: "):
            Pool(account(port, host=host)).send(SENDER, [ANN], MESSAGE)
