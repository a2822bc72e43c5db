"""The check of the finished bytes, which refuses what the writer should never write."""

from __future__ import annotations

import pytest

from formrelay.core.errors import InvalidJob
from formrelay.sinks.smtp import headers, message, reparse
from formrelay.sinks.smtp.headers import Header
from formrelay.sinks.smtp.message import Attachment, Email, write
from formrelay.sinks.smtp.reparse import check
from tests.sinks.smtp.emails import make

EMAIL = make(
    to=['"Doe, Ann" <ann@example.org>', "Jörg Peter Miller <j@x.y>"],
    subject="Grüße aus Hamburg an alle",
    html="<p>ö",
    attachments=[Attachment("ä.pdf", b"x" * 100, "application/pdf")],
    unsubscribe_url="https://example.com/u",
)


def written(email: Email, data: bytes) -> None:
    """Check bytes against an e-mail, as write() does it."""
    root = message._body(email)
    check(data, [*message._headers(email), Header("MIME-Version", "1.0"), *root.headers], root)


def test_the_bytes_that_were_written_pass() -> None:
    written(EMAIL, write(EMAIL))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # An additional, a missing and a repeated header, also in a part.
        (b"Subject:", b"Bcc: evil@example.net\r\nSubject:"),
        (b"Subject:", b"Subject: a\r\nSubject:"),
        (b"MIME-Version: 1.0\r\n", b""),
        (b"Content-Disposition:", b"X-Other: a\r\nContent-Disposition:"),
        (b"Subject: ", b"Subject: \r\n\r\n"),
        # Names and addresses.
        (b'"Doe, Ann" <', b"Doe, Ann <"),
        (b'"Doe, Ann" ', b'"Doe, Anna" '),
        (b"ann@example.org", b"ann@example.net"),
        (b"<ann@example.org>,", b"<ann@example.org>, b@x.y,"),
        (b"<forms@example.com>", b"<forms@example.com>, b@x.y"),
        (b"=?utf-8?q?J=C3=B6rg_", b"=?utf-8?q?J=C3=B6rg?= =?utf-8?q?_"),
        (b"=?utf-8?q?J=C3=B6rg_", b"=?utf-8?q?J=C3=B6rg"),
        # Other values.
        (b"=?utf-8?q?Gr=C3=BC=C3=9Fe_", b"=?utf-8?q?Gr=C3=BCsse_"),
        (b"<https://example.com/u>", b"=?utf-8?q?=3Chttps=3A//example=2Ecom/u=3E?="),
        (b"<https://example.com/u>", b"<https://exa\r\n mple.com/u>"),
        (b"<job-1@", b"<job-2@"),
        # Parts, file names and bodies.
        (b"filename*=UTF-8''%C3%A4.pdf", b"filename*=UTF-8''%C3%A5.pdf"),
        (b"application/pdf", b"application/exe"),
        (b"eHh4", b"eHh5"),
        (b"<p>=C3=B6", b"<p>=C3=B7"),
        (b"_1--\r\n", b"\r\n"),
        # Lines.
        (b"eHh4", b"eHh4\n"),
        (b"eHh4", b"eHh4\r"),
        (b"Hello", b"Hello\0"),
        (b"Hello", b"Hello" + b"a" * 1000),
        (b"Hello", b"Hell\xc3\xb6"),
        (b"Forms", b"F\xc3\xb6rms"),
        (b"--\r\n", b"--"),
    ],
)
def test_every_change_of_the_bytes_is_refused(old: bytes, new: bytes) -> None:
    data = write(EMAIL)
    assert old in data
    with pytest.raises(InvalidJob, match="expected") as caught:
        written(EMAIL, data.replace(old, new, 1) if old != b"--\r\n" else data[:-2])
    assert "evil" not in str(caught.value)


def test_write_refuses_what_the_check_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    evil = Header("Subject", "Hi\r\nBcc: evil@example.net", "Hi")
    monkeypatch.setattr(headers, "subject", lambda text: evil)
    with pytest.raises(InvalidJob, match="without additional or missing headers"):
        write(make())


def test_a_kind_of_header_has_one_class() -> None:
    """A class for each parsed header would stay in memory until the garbage collector runs."""
    parse = reparse._POLICY.header_fetch_parse
    names = ("To", "to", "Subject", "X-One", "X-Two")
    kinds = {type(parse(name, "a@here.example")) for name in (*names, *names)}
    assert len(kinds) == 3
