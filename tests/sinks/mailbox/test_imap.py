"""Reading a folder of an IMAP server, over TLS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from formrelay.core.errors import ConfigError, SinkUnavailable, SinkUnready
from formrelay.sinks.mailbox import imap
from formrelay.sinks.mailbox.imap import ImapAccount, read_imap
from tests.sinks.mailbox.imap_server import PASSWORD, ImapServer
from tests.support.certificates import Authority

FIRST, SECOND = b"Subject: first\r\n\r\n\xff\r\n", b"Subject: second\r\n\r\n)\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def serve(authority: Authority, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    servers = []

    def start(*, is_tls: bool = True, capabilities: str = "AUTH=PLAIN STARTTLS") -> ImapServer:
        context = authority.server_side(f"imap{len(servers)}")
        servers.append(ImapServer(context, is_tls=is_tls, capabilities=capabilities))
        servers[-1].messages = {1: FIRST, 5: SECOND}
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def account(authority: Authority, server: ImapServer, **changes: Any) -> ImapAccount:
    base = {
        "host": "localhost",
        "port": server.port,
        "security": "tls",
        "user": "reports",
        "password": lambda: PASSWORD,
        "ca_file": authority.certificate,
        "timeout": timedelta(seconds=20),
    }
    return ImapAccount(**(base | changes))


@pytest.mark.parametrize("security", ["tls", "starttls"])
@pytest.mark.parametrize("capabilities", ["AUTH=PLAIN STARTTLS", "STARTTLS"])
def test_only_messages_that_are_done_are_seen(
    authority: Authority, serve: Callable[..., Any], security: str, capabilities: str
) -> None:
    server = serve(is_tls=security == "tls", capabilities=capabilities)
    found = []
    for each in read_imap(account(authority, server, security=security)):
        found.append(each.data)
        if len(found) == 1:
            assert server.seen == set()
            each.done()
    assert (found, server.seen) == ([FIRST, SECOND], {1})
    (left,) = read_imap(account(authority, server, security=security))
    assert left.data == SECOND
    assert list(read_imap(account(authority, server, security=security), {left.key})) == []


def test_a_large_message_is_not_fetched(
    authority: Authority, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setattr(imap, "MAX_MESSAGE", len(FIRST) - 1)
    assert [each.data for each in read_imap(account(authority, server))] == [b"", b""]
    assert not any("PEEK" in command for command in server.commands)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"password": lambda: "wrong"}, SinkUnready, "refused the login"),
        ({"folder": "Other"}, SinkUnready, "no such folder"),
        ({"ca_file": None}, SinkUnready, "certificate"),
        ({"port": 1}, SinkUnavailable, "ConnectionRefusedError"),
    ],
)
def test_errors_say_what_to_do_and_quote_nobody(
    authority: Authority,
    serve: Callable[..., Any],
    changes: dict[str, Any],
    error: type[Exception],
    text: str,
) -> None:
    with pytest.raises(error, match=text) as found:
        list(read_imap(account(authority, serve(), **changes)))
    assert type(found.value) is error
    assert "reports" not in str(found.value)


@pytest.mark.parametrize("command", ["UID SEARCH", "UID FETCH 1 (BODY", "UID STORE"])
def test_a_lost_connection_leaves_the_message(
    authority: Authority, serve: Callable[..., Any], command: str
) -> None:
    server = serve()
    server.loses_at = command
    messages = read_imap(account(authority, server))
    with pytest.raises(SinkUnavailable):
        next(messages).done()
    server.loses_at = ""
    assert [each.data for each in read_imap(account(authority, server))] == [FIRST, SECOND]


def test_a_folder_that_is_not_ascii_is_refused(authority: Authority) -> None:
    with pytest.raises(ConfigError, match="ASCII"):
        ImapAccount("localhost", 993, "tls", "reports", lambda: "x", folder="Büro")
