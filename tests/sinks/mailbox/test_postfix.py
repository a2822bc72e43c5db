"""The reports of a real Postfix, from its maildir."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from formrelay.sinks.mailbox.files import read_maildir
from formrelay.sinks.mailbox.model import Report
from formrelay.sinks.mailbox.reports import read_report
from formrelay.sinks.smtp.pool import Pool
from tests.sinks.smtp.accounts import account
from tests.support.missing import skip_or_fail
from tests.support.servers import PostfixServer
from tests.support.waiting import wait_until

ID = "0123456789abcdef0123456789abcdef"
SENDER = "ann@there.example"
GONE = "Gone+list@elsewhere.example"
MESSAGE = f"From: {SENDER}\r\nMessage-ID: <{ID}@there.example>\r\n\r\nHello\r\n".encode()


class BouncingPostfix(PostfixServer):
    """Takes e-mails for other domains, and bounces them."""

    def _configure(self) -> None:
        super()._configure()
        with (self.data_dir / "master.cf").open("a") as file:
            # 67: no such user (sysexits.h)
            file.write("gone unix - n n - - pipe user=nobody argv=/bin/sh -c {exit 67}\n")
        main = self.data_dir / "main.cf"
        main.write_text(main.read_text().replace("_transport = error:", "_transport = gone:"))


@pytest.fixture(scope="module")
def postfix() -> Iterator[PostfixServer]:
    if os.geteuid() or PostfixServer.program() is None:
        skip_or_fail(f"{PostfixServer.kind} needs root and {PostfixServer.package}")
    with BouncingPostfix() as server:
        yield server


@pytest.mark.parametrize("envid", [ID, None])
def test_a_bounce_is_read_and_marked(postfix: PostfixServer, envid: str | None) -> None:
    pool = Pool(account(postfix.port))
    (reply,) = pool.send(SENDER, [GONE], MESSAGE, smtputf8=False, envid=envid)
    pool.close()
    assert reply.kind == "accepted"
    wait_until(lambda: postfix.messages("ann"))
    folder = postfix.data_dir / "mail" / "ann"
    (message,) = read_maildir(folder)
    report = read_report(message.data)
    assert isinstance(report, Report)
    assert (report.kind, report.ids) == ("bounce", [ID])
    assert [(each.addresses[0], each.status) for each in report.recipients] == [(GONE, "5.1.1")]
    message.done()
    assert list(read_maildir(folder)) == []
