"""Makes the bytes of an e-mail, the same on every attempt of a job."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, get_args

from ...core.errors import InvalidJob
from . import headers
from .address import Mailbox, each_once
from .dkim import DkimKey
from .headers import Header
from .mime import Part, attachment_part, multipart, text_part
from .reparse import check

EmailKind = Literal["notice", "autoresponse", "list"]

#: Headers by kind. A notice has none: help desks, which often receive them, drop e-mails that are
#: marked as automatic. ``Auto-Submitted`` is RFC 3834; Exchange reads ``X-Auto-Response-Suppress``,
#: and other programs that answer for absent people read ``Precedence``.
_HEADERS_OF_KIND: dict[EmailKind, tuple[Header, ...]] = {
    "notice": (),
    "autoresponse": (
        Header("Auto-Submitted", "auto-replied"),
        Header("X-Auto-Response-Suppress", "All"),
    ),
    "list": (
        Header("Precedence", "bulk"),
        Header("X-Auto-Response-Suppress", "OOF, AutoReply"),
    ),
}


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of an e-mail.

    Attributes:
        media_type: ``type/subtype`` without parameters.
    """

    filename: str = field(repr=False)
    content: bytes = field(repr=False)
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Email:
    """An e-mail. Its ``repr`` has no names, addresses or texts.

    Attributes:
        id: makes the Message-ID and the MIME boundaries; the same on every attempt.
        date: when the job was sent, with a time zone.
        bcc: recipients that stand nowhere in the bytes.
        text, html: bodies; newlines are converted, and each ends with one.
        kind: decides the headers against automatic answers. A ``list`` needs an unsubscribe URL.
        unsubscribe_url: https URL for one click (RFC 8058); POST requests must unsubscribe.
        sign: key of the DKIM signature; None for no signature.
    """

    id: str
    date: datetime
    sender: Mailbox
    to: Sequence[Mailbox]
    cc: Sequence[Mailbox] = ()
    bcc: Sequence[Mailbox] = ()
    reply_to: Sequence[Mailbox] = ()
    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str | None = field(default=None, repr=False)
    attachments: Sequence[Attachment] = ()
    kind: EmailKind = "notice"
    unsubscribe_url: str | None = field(default=None, repr=False)
    sign: DkimKey | None = None

    @property
    def recipients(self) -> list[Mailbox]:
        """The recipients of ``to``, ``cc`` and ``bcc`` for the envelope, each address once."""
        return each_once([*self.to, *self.cc, *self.bcc])

    @property
    def needs_smtputf8(self) -> bool:
        """Whether only servers with SMTPUTF8 can take the e-mail, because of an address."""
        return any(
            mailbox.needs_smtputf8 for mailbox in (self.sender, *self.recipients, *self.reply_to)
        )


def write(email: Email) -> bytes:
    """Make the bytes of an e-mail for SMTP: CRLF lines of 7-bit characters.

    Only an address whose local part is not ASCII makes the headers UTF-8 (``needs_smtputf8``).
    The finished bytes are parsed again, and every header, address, file name and body compared.

    Raises:
        InvalidJob: a value is invalid, or does not read back as it was given. The message does
            not quote a value.
        ConfigError: the DKIM key cannot sign.
    """
    root = _body(email)
    found = [*_headers(email), Header("MIME-Version", "1.0"), *root.headers]
    head = "".join(header.lines for header in found).encode()
    data = b"".join([head, b"\r\n", *root.pieces()])
    if email.sign is not None:
        signature = email.sign.sign(data, email.date)
        found.insert(0, signature)
        data = signature.lines.encode("ascii") + data
    check(data, found, root)
    return data


def _headers(email: Email) -> Iterator[Header]:
    """All headers but those of the body."""
    if email.kind not in get_args(EmailKind):
        raise InvalidJob(f"expected a kind of {', '.join(get_args(EmailKind))}, got another")
    if email.kind == "list" and email.unsubscribe_url is None:
        raise InvalidJob("expected an unsubscribe url for an e-mail of the kind list, got none")
    if not email.recipients:
        raise InvalidJob("expected at least one recipient, got none")
    yield headers.date(email.date)
    yield headers.mailboxes("From", [email.sender])
    yield headers.mailboxes("To", email.to)
    for name, mailboxes in (("Cc", email.cc), ("Reply-To", email.reply_to)):
        if mailboxes:
            yield headers.mailboxes(name, mailboxes)
    yield headers.subject(email.subject)
    yield headers.message_id(email.id, email.sender.domain)
    if email.unsubscribe_url is not None:
        yield from headers.unsubscribe(email.unsubscribe_url)
    yield from _HEADERS_OF_KIND[email.kind]


def _body(email: Email) -> Part:
    """The parts of an e-mail: mixed > alternative, where they are needed."""
    boundaries = _boundaries(email.id)
    root = text_part("plain", email.text)
    if email.html is not None:
        children = [root, text_part("html", email.html)]
        root = multipart("alternative", children, next(boundaries))
    files = [
        attachment_part(each.filename, each.content, each.media_type) for each in email.attachments
    ]
    return multipart("mixed", [root, *files], next(boundaries)) if files else root


def _boundaries(job_id: str) -> Iterator[str]:
    """Boundaries that depend only on the id of the job."""
    digest = hashlib.sha256(job_id.encode(errors="replace")).hexdigest()[:32]
    for number in range(1, 3):
        yield f"=_{digest}_{number}"
