"""Postfix and OpenSMTPD as mail servers of recipients."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from formrelay.core.errors import SinkUnready
from formrelay.sinks.smtp.account import Account, make_tls_context
from formrelay.sinks.smtp.pool import Pool
from tests.sinks.smtp.accounts import SENDER, account
from tests.support.certificates import Authority
from tests.support.missing import skip_or_fail
from tests.support.servers import OpenSmtpdServer, PostfixServer, Server
from tests.support.threads import at_once
from tests.support.waiting import wait_until

KNOWN = [f"{name}@there.example" for name in ("ann", "ben", "cat")]
BODY = b".\r\n..\r\n.a line\r\n\r\nlast\r\n"
MESSAGE = b"From: a@here.example\r\nSubject: dots\r\n\r\n" + BODY


def require(server: type[Server]) -> None:
    if os.geteuid() or server.program() is None:
        skip_or_fail(f"{server.kind} needs root and {server.package}")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("smtp-servers"))


@pytest.fixture(scope="module")
def postfix(authority: Authority) -> Iterator[PostfixServer]:
    require(PostfixServer)
    with PostfixServer(certificate=authority.issue("postfix")) as server:
        yield server


@pytest.fixture(scope="module")
def opensmtpd() -> Iterator[OpenSmtpdServer]:
    require(OpenSmtpdServer)
    with OpenSmtpdServer() as server:
        yield server


@pytest.fixture
def secure(authority: Authority, postfix: PostfixServer) -> Account:
    """A login at Postfix under TLS."""
    return account(
        postfix.port,
        security="starttls",
        tls_context=make_tls_context(authority.certificate),
        user=postfix.user,
        password=lambda: postfix.password,
    )


def bodies(server: PostfixServer | OpenSmtpdServer, name: str, subject: bytes) -> list[bytes]:
    found = [each for each in server.messages(name) if b"Subject: " + subject in each]
    return [each.partition(b"\n\n")[2] for each in found]


def with_subject(subject: str) -> bytes:
    return MESSAGE.replace(b"dots", subject.encode())


def test_postfix_decides_about_each_recipient(postfix: PostfixServer, secure: Account) -> None:
    pool = Pool(secure)
    recipients = [KNOWN[0], "nobody@there.example", "later@there.example", "blocked@there.example"]
    ann, nobody, later, blocked = pool.send(
        SENDER, recipients, with_subject("each"), envid="message-id=1@here.example"
    )
    pool.close()
    assert (ann.code, ann.kind, ann.status) == (250, "accepted", "2.0.0")
    assert (nobody.kind, nobody.status, nobody.is_address_bad) == ("refused", "5.1.1", True)
    assert (later.kind, later.status) == ("deferred", "4.2.0")
    assert (blocked.kind, blocked.is_policy, blocked.is_address_bad) == ("refused", True, False)
    for reply, address in zip((nobody, later, blocked), recipients[1:], strict=True):
        assert address not in reply.text
        assert address.partition("@")[0] not in reply.text
    wait_until(lambda: bodies(postfix, "ann", b"each"))
    # Postfix writes lines as this system does.
    assert bodies(postfix, "ann", b"each") == [BODY.replace(b"\r\n", b"\n")]


def test_postfix_gets_all_recipients_over_its_limit_in_one_call(
    postfix: PostfixServer, secure: Account
) -> None:
    pool = Pool(secure)
    # Five are allowed; the same address counts each time.
    replies = pool.send(SENDER, KNOWN * 3, with_subject("many"))
    pool.close()
    assert [reply.kind for reply in replies] == ["accepted"] * 9
    wait_until(lambda: all(bodies(postfix, name, b"many") for name in ("ann", "ben", "cat")))


def test_postfix_that_counts_errors_and_answers_421_gets_another_connection(
    secure: Account,
) -> None:
    pool = Pool(secure)
    unknown = [f"nobody{number}@there.example" for number in range(4)]
    for _ in range(5):
        replies = pool.send(SENDER, unknown, MESSAGE)
        assert [reply.status for reply in replies] == ["5.1.1"] * 4
    assert pool.send(SENDER, KNOWN[:1], MESSAGE)[0].kind == "accepted"
    pool.close()


def test_postfix_takes_no_message_over_its_size(secure: Account) -> None:
    pool = Pool(secure)
    (reply,) = pool.send(SENDER, KNOWN[:1], MESSAGE + b"x" * 70 + b"\r\n" + b"y\r\n" * 10_000)
    assert (reply.code, reply.status, reply.step) == (552, "5.3.4", "check")
    assert pool.send(SENDER, KNOWN[:1], MESSAGE)[0].kind == "accepted"
    pool.close()


def test_postfix_takes_smtputf8(postfix: PostfixServer, secure: Account) -> None:
    pool = Pool(secure)
    message = with_subject("grün")
    (reply,) = pool.send(SENDER, ["jörg@there.example"], message, smtputf8=True, envid="1")
    pool.close()
    assert reply.kind == "accepted"
    wait_until(lambda: bodies(postfix, "jörg", "grün".encode()))


def test_postfix_refuses_a_wrong_password(secure: Account) -> None:
    wrong = account(
        secure.port,
        security="starttls",
        tls_context=secure.tls_context,
        user=secure.user,
        password=lambda: "wrong-password",
    )
    with pytest.raises(SinkUnready, match=r"refuses the login: 535 5\.7\.8") as caught:
        Pool(wrong).send(SENDER, KNOWN, MESSAGE)
    assert "wrong-password" not in str(caught.value)


def test_postfix_offers_no_login_without_tls(secure: Account) -> None:
    plain = account(secure.port, user=secure.user, password=secure.password)
    with pytest.raises(SinkUnready, match="it offers no login"):
        Pool(plain).send(SENDER, KNOWN, MESSAGE)


def test_threads_send_to_postfix_over_two_connections(
    postfix: PostfixServer, authority: Authority
) -> None:
    pool = Pool(
        account(
            postfix.port,
            security="starttls",
            tls_context=make_tls_context(authority.certificate),
            max_connections=2,
            max_messages=15,
        )
    )

    def work(number: int) -> None:
        for _ in range(10):
            (reply,) = pool.send(SENDER, [KNOWN[number % 3]], with_subject("threads"))
            assert reply.kind == "accepted"

    at_once(work, range(6), timeout=120)
    pool.close()
    counts = [lambda name=name: len(bodies(postfix, name, b"threads")) for name in ("ann", "ben")]
    for count in counts:
        wait_until(lambda count=count: count() == 20)


@pytest.mark.slow
def test_a_restarted_postfix_gets_a_new_connection(authority: Authority) -> None:
    require(PostfixServer)
    with PostfixServer(certificate=authority.issue("restarted")) as server:
        found = account(
            server.port,
            security="starttls",
            tls_context=make_tls_context(authority.certificate),
        )
        pool = Pool(found)
        assert pool.send(SENDER, KNOWN, MESSAGE)[0].kind == "accepted"
        server.restart()
        assert pool.send(SENDER, KNOWN, MESSAGE)[0].kind == "accepted"
        pool.close()


def test_opensmtpd_decides_about_each_recipient(opensmtpd: OpenSmtpdServer) -> None:
    pool = Pool(account(opensmtpd.port))
    replies = pool.send(SENDER, [KNOWN[0], "nobody@there.example", KNOWN[2]], MESSAGE, envid="1")
    ann, nobody, cat = replies
    assert (ann.kind, cat.kind) == ("accepted", "accepted")
    assert (nobody.code, nobody.kind) == (550, "refused")
    assert nobody.is_address_bad
    assert "nobody" not in nobody.text
    # The connection is used again after the refusal.
    assert pool.send(SENDER, KNOWN, MESSAGE)[1].kind == "accepted"
    pool.close()
    wait_until(lambda: len(bodies(opensmtpd, "cat", b"dots")) == 2)
    assert bodies(opensmtpd, "cat", b"dots")[0] == BODY.replace(b"\r\n", b"\n")


def test_opensmtpd_takes_no_message_over_its_size(opensmtpd: OpenSmtpdServer) -> None:
    pool = Pool(account(opensmtpd.port))
    (reply,) = pool.send(SENDER, KNOWN[:1], MESSAGE + b"y\r\n" * 10_000)
    assert (reply.code, reply.step) == (552, "check")
    pool.close()


def test_opensmtpd_gets_many_messages_over_one_connection(opensmtpd: OpenSmtpdServer) -> None:
    pool = Pool(account(opensmtpd.port))
    for _ in range(50):
        assert pool.send(SENDER, KNOWN[1:2], with_subject("often"))[0].kind == "accepted"
    pool.close()
    wait_until(lambda: len(bodies(opensmtpd, "ben", b"often")) == 50)
