"""Writes the headers of a message, each with the meaning that a reader must find in it.

Python's ``email`` package is not used for this: on Python 3.11 it turns an encoded line feed in a
subject into a new header, drops the quotes of long names (cpython 121284), encodes addresses of
foreign domains so that they cannot be delivered, and encodes long URLs.

Lines are folded only at white space. A folded line is shorter than 78 characters where its words
allow it; no line has more than 998 characters (RFC 5322, section 2.1.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime

from ...core.errors import InvalidJob
from ..http.url import check_url
from .address import Mailbox
from .encoded_words import encode, header_text

#: Maximum number of characters of a line, without CRLF.
MAX_LINE = 998
MAX_SUBJECT = 1000

_FOLD_AT = 78
#: Longer words are encoded, since they cannot be folded.
_MAX_WORD = 500
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_ID = re.compile(r"[A-Za-z0-9_=+-]+(?:\.[A-Za-z0-9_=+-]+)*")
_MAX_ID = 200


@dataclass(frozen=True, slots=True)
class Header:
    """A header.

    Attributes:
        value: the value as sent, folded with CRLF.
        meaning: what a reader must find: a text (``Subject``), the names and addresses of
            mailboxes, or None if it is the value itself.
    """

    name: str
    value: str = field(repr=False)
    meaning: str | tuple[Mailbox, ...] | None = field(default=None, repr=False)

    @property
    def lines(self) -> str:
        """The lines of the header, with CRLF."""
        return f"{self.name}: {self.value}\r\n"


def subject(text: str) -> Header:
    """The ``Subject`` header.

    Raises:
        InvalidJob: the text is empty, too long, or has control characters or line separators.
    """
    text = header_text(text, "a subject", max_characters=MAX_SUBJECT)
    if not text:
        raise InvalidJob("expected a subject, got an empty text")
    column = len("Subject: ")
    is_plain = _PRINTABLE.fullmatch(text) and "=?" not in text
    if is_plain and max(map(len, text.split(" "))) <= _MAX_WORD:
        return Header("Subject", fold(text.split(" "), column=column), text)
    return Header("Subject", "\r\n ".join(encode(text, column=column)), text)


def mailboxes(name: str, found: Sequence[Mailbox]) -> Header:
    """A header with mailboxes, such as ``To``.

    Args:
        found: may be empty only in ``To``: ``undisclosed-recipients:;`` for a message whose
            recipients are all in Bcc.
    """
    if not found:
        return Header(name, "undisclosed-recipients:;", ())
    pieces: list[str] = []
    for number, mailbox in enumerate(found, start=1):
        pieces += _mailbox_pieces(mailbox, is_first=number == 1, name=name)
        pieces[-1] += "," if number < len(found) else ""
    return Header(name, fold(pieces, column=len(name) + 2), tuple(found))


def _mailbox_pieces(mailbox: Mailbox, *, is_first: bool, name: str) -> list[str]:
    """A mailbox as pieces, between which the line may be folded.

    A name is always quoted, or encoded if it is not ASCII.
    """
    if not mailbox.name:
        return [mailbox.address]
    address = f"<{mailbox.address}>"
    if _PRINTABLE.fullmatch(mailbox.name) and "=?" not in mailbox.name:
        escaped = re.sub(r'(["\\])', r"\\\1", mailbox.name)
        return [f'"{escaped}"', address]
    return [*encode(mailbox.name, column=len(name) + 2 if is_first else 1), address]


def message_id(job_id: str, domain: str) -> Header:
    """The ``Message-ID`` header, the same on every attempt of a job.

    Raises:
        InvalidJob: the id is empty, too long, or has other characters than letters, digits, ``_``,
            ``-``, ``+``, ``=`` and single dots.
    """
    if not isinstance(job_id, str) or len(job_id) > _MAX_ID or not _ID.fullmatch(job_id):
        raise InvalidJob(
            f"expected an id of at most {_MAX_ID} letters, digits and _-+= with single dots "
            "between them, got another: change the id of the e-mail"
        )
    return Header("Message-ID", f"<{job_id}@{domain}>")


def date(when: datetime) -> Header:
    """The ``Date`` header, in UTC and whole seconds.

    Raises:
        InvalidJob: the time has no time zone, or its year is before 1970.
    """
    if when.tzinfo is None or when.year < 1970:
        raise InvalidJob("expected a date since 1970 with a time zone, got another")
    return Header("Date", format_datetime(when.astimezone(UTC).replace(microsecond=0)))


def unsubscribe(url: str) -> list[Header]:
    """``List-Unsubscribe`` and ``List-Unsubscribe-Post`` (RFC 8058), never encoded or folded.

    Raises:
        InvalidJob: the URL is not https, has a fragment, is invalid or too long. The message does
            not quote it.
    """
    if not isinstance(url, str) or not url.lower().startswith("https://"):
        raise InvalidJob("expected an unsubscribe url that begins with https://, got another")
    if "#" in url:
        raise InvalidJob("expected an unsubscribe url without '#', which no request contains")
    try:
        value = f"<{check_url(url).url}>"
    except InvalidJob as error:
        raise InvalidJob(f"in the unsubscribe url: {error}") from None
    except UnicodeEncodeError:
        raise InvalidJob(
            "expected an unsubscribe url of whole characters, got half of a surrogate pair"
        ) from None
    name = "List-Unsubscribe"
    longest = MAX_LINE - len(name) - len(": <>")
    if len(value) - 2 > longest:
        raise InvalidJob(
            f"expected an unsubscribe url of at most {longest} characters after percent-encoding, "
            f"got {len(value) - 2}: shorten it"
        )
    return [Header(name, value), Header(f"{name}-Post", "List-Unsubscribe=One-Click")]


def fold(pieces: Iterable[str], *, column: int) -> str:
    """Join pieces by spaces, or by line breaks where a line would be too long.

    Args:
        column: number of characters before the first piece on its line.
    """
    lines: list[str] = []
    width = column
    for piece in pieces:
        fits = width + 1 + len(piece) <= _FOLD_AT
        # A piece that is an encoded word has a line of its own: such lines have at most 76.
        if lines and fits and not piece.startswith("=?"):
            lines[-1] += f" {piece}"
            width += 1 + len(piece)
        else:
            width = len(piece) + (1 if lines else column)
            lines.append(piece)
    return "\r\n ".join(lines)
