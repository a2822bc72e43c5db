"""A folder of a real Dovecot: logins with a password and with an OAuth token."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from formrelay.core.errors import SinkUnready
from formrelay.sinks.mailbox.imap import ImapAccount, read_imap
from tests.support.certificates import Authority
from tests.support.http_server import running
from tests.support.missing import skip_or_fail
from tests.support.servers import DovecotServer

FIRST, SECOND = b"Subject: first\n\nHello\n", b"Subject: second\n\n\xff\n"


class TokenInfo:
    """Says which access tokens are valid.

    Attributes:
        valid: the valid tokens.
        asked: the tokens that were asked for.
    """

    def __init__(self) -> None:
        self.valid: set[str] = set()
        self.asked: list[str] = []
        self.url = ""


@pytest.fixture(scope="module")
def info() -> Iterator[TokenInfo]:
    found = TokenInfo()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            token = self.path.rpartition("=")[2]
            found.asked.append(token)
            data = json.dumps({"email": DovecotServer.user}).encode()
            self.send_response(200 if token in found.valid else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        found.url = f"http://127.0.0.1:{port}/tokeninfo"
        yield found


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("dovecot"))


@pytest.fixture(scope="module")
def dovecot(authority: Authority, info: TokenInfo) -> Iterator[DovecotServer]:
    if os.geteuid() or DovecotServer.program() is None:
        skip_or_fail(f"{DovecotServer.kind} needs root and {DovecotServer.package}")
    certificate = authority.issue("dovecot")
    with DovecotServer(certificate=certificate, token_info=info.url) as server:
        yield server


class Tokens:
    """A token that is refreshed when it is refused."""

    def __init__(self) -> None:
        self.asked: list[bool] = []

    def __call__(self, is_new: bool) -> str:
        self.asked.append(is_new)
        return "A2" if True in self.asked else "A1"


@pytest.fixture
def account(authority: Authority, dovecot: DovecotServer, info: TokenInfo) -> Any:
    info.valid.clear()
    info.asked.clear()

    def make(**changes: Any) -> ImapAccount:
        base = {
            "host": "localhost",
            "port": dovecot.port,
            "security": "starttls",
            "user": dovecot.user,
            "password": lambda: dovecot.password,
            "ca_file": authority.certificate,
            "timeout": timedelta(seconds=30),
        }
        return ImapAccount(**(base | changes))

    return make


def test_reports_are_read_and_marked(dovecot: DovecotServer, account: Any) -> None:
    dovecot.deliver("1.first", FIRST)
    dovecot.deliver("2.second", SECOND)
    found = []
    for each in read_imap(account()):
        found.append(each.data.replace(b"\r\n", b"\n"))
        if len(found) == 1:
            each.done()
    assert found == [FIRST, SECOND]
    for left in read_imap(account()):
        assert left.data.replace(b"\r\n", b"\n") == SECOND
        left.done()
    assert list(read_imap(account())) == []


def test_a_wrong_password_is_refused(account: Any) -> None:
    with pytest.raises(SinkUnready, match="check user and password"):
        list(read_imap(account(password=lambda: "wrong")))


def test_a_token_logs_in(dovecot: DovecotServer, account: Any, info: TokenInfo) -> None:
    info.valid.add("A1")
    tokens = Tokens()
    dovecot.deliver("3.third", FIRST)
    for each in read_imap(account(token=tokens)):
        each.done()
    assert tokens.asked == [False]
    assert info.asked == ["A1"]
    assert list(read_imap(account(token=tokens))) == []


def test_a_token_that_is_refused_is_refreshed_once(account: Any, info: TokenInfo) -> None:
    info.valid.add("A2")
    tokens = Tokens()
    assert list(read_imap(account(token=tokens))) == []
    assert tokens.asked == [False, True]
    info.valid.clear()
    with pytest.raises(SinkUnready, match="check the user of the mailbox") as raised:
        list(read_imap(account(token=Tokens())))
    assert not any(secret in str(raised.value) for secret in ("A1", "A2", "here.example"))
