"""Makes e-mails for tests, and reads their bytes without the code that wrote them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email import message_from_bytes, message_from_string, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import getaddresses
from typing import Any

from formrelay.sinks.smtp.address import Mailbox, parse_mailbox
from formrelay.sinks.smtp.message import Email, write

DATE = datetime(2026, 11, 29, 18, 30, 5, 999_999, tzinfo=UTC)

#: Characters that end a line for one program or another.
LINE_ENDS = ("\r", "\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")


def make(**changed: Any) -> Email:
    """An e-mail; mailboxes may be given as texts."""
    values: dict[str, Any] = {
        "id": "job-1",
        "date": DATE,
        "sender": "Forms <forms@example.com>",
        "to": ["Ann <ann@example.org>"],
        "subject": "Thank you",
        "text": "Hello\n",
    }
    values |= changed
    values["sender"] = _mailbox(values["sender"])
    for name in ("to", "cc", "bcc", "reply_to"):
        values[name] = [_mailbox(each) for each in values.get(name, ())]
    return Email(**values)


def _mailbox(value: str | Mailbox) -> Mailbox:
    return parse_mailbox(value) if isinstance(value, str) else value


def write_with(**changed: Any) -> bytes:
    """The bytes of an e-mail of :func:`make`."""
    return write(make(**changed))


def header_lines(data: bytes) -> list[tuple[str, str]]:
    """Names and unfolded values of the headers, found without a parser of e-mail."""
    head = data.partition(b"\r\n\r\n")[0].decode()
    pairs = (line.partition(": ") for line in re.sub(r"\r\n(?=[ \t])", "", head).split("\r\n"))
    return [(name, value) for name, _, value in pairs]


def names(data: bytes) -> list[str]:
    """Names of the headers in their order."""
    return [name for name, _ in header_lines(data)]


def value(data: bytes, name: str) -> str:
    """The value of the only header of that name, unfolded."""
    (found,) = [value for other, value in header_lines(data) if other == name]
    return found


def parse(data: bytes) -> EmailMessage:
    """The message as the newer policy of Python reads it."""
    found = message_from_bytes(data, policy=policy.SMTP)
    assert isinstance(found, EmailMessage)
    return found


def text_of(data: bytes, name: str) -> set[str]:
    """A header of text as both policies of Python read it."""
    older = str(make_header(decode_header(value(data, name))))
    return {older, str(parse(data)[name])}


def addresses_of(data: bytes, name: str) -> list[tuple[str, str]]:
    """Names and addresses of a header as the older policy of Python reads them.

    The newer policy must find the same addresses; it adds spaces to some names.
    """
    pairs = [
        (str(make_header(decode_header(each))), address)
        for each, address in getaddresses([value(data, name)])
    ]
    newer = message_from_string(data.decode(), policy=policy.SMTP)[name].addresses
    assert [each.addr_spec for each in newer] == [address.replace('"', "") for _, address in pairs]
    return pairs


def assert_sendable(data: bytes, *, is_utf8: bool = False) -> None:
    """Check what a server without any extension needs: short 7-bit lines that end with CRLF."""
    assert data.endswith(b"\r\n")
    lines = data.split(b"\r\n")
    assert max(map(len, lines)) <= 998
    assert not any(set(line) & {0, 10, 13} for line in lines)
    head, _, body = data.partition(b"\r\n\r\n")
    assert body.isascii()
    assert is_utf8 or head.isascii()
    assert not any(line.isspace() for line in head.split(b"\r\n"))
