"""Takes a message apart: its parts, blocks of fields, and the ids and addresses in them."""

from __future__ import annotations

import base64
import binascii
import quopri
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from email.message import Message
from email.utils import getaddresses

from ...core.errors import InvalidJob
from ..smtp.address import parse_mailbox

#: Limits of the work on a message.
_MAX_PARTS, _MAX_BLOCKS, _MAX_TEXT, _MAX_IDS = 50, 1000, 200_000, 5

#: Codecs of Python that are no character sets of e-mail, and take long for long texts.
_SLOW_CHARSETS = frozenset({"idna", "punycode"})

_RETURNED = frozenset(
    {"message/rfc822", "message/global", "text/rfc822-headers", "message/global-headers"}
)
_MESSAGE_ID = re.compile(r"<([A-Za-z0-9.+=_-]{1,200})@[^<>\s]{1,255}>")
_IN_TEXT = re.compile(r"^[ >]*Message-ID:\s*(<[^<>\s]{1,460}>)", re.IGNORECASE | re.MULTILINE)
_XTEXT = re.compile(r"\+([0-9A-F]{2})")
_UTF8_XTEXT = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")


def parts_of(message: Message) -> Iterator[Message]:
    """Yield the leaves of a message; a message inside it is a leaf."""
    waiting, count = [message], 0
    while waiting and count < _MAX_PARTS:
        part = waiting.pop(0)
        count += 1
        inner = part.get_payload()
        if part.get_content_maintype() == "multipart" and isinstance(inner, list):
            waiting[:0] = [each for each in inner if isinstance(each, Message)]
        else:
            yield part


def blocks_of(part: Message) -> list[dict[str, str]]:
    """The blocks of fields of a part such as message/delivery-status, names in lower case."""
    return [_fields(block) for block in re.split(r"\n[ \t]*\n", raw_text(part))[:_MAX_BLOCKS]]


def raw_text(part: Message) -> str:
    """The text of a leaf, decoded; a message inside it as it was written."""
    inner = part.get_payload()
    if isinstance(inner, list):  # the parser has read its fields as the headers of messages
        text = "\n\n".join(_written(each) for each in inner if isinstance(each, Message))
        text = _transfer_decoded(text, str(part.get("content-transfer-encoding", "")))
    else:
        content = part.get_payload(decode=True)
        data = content if isinstance(content, bytes) else str(inner).encode("utf-8", "replace")
        text = _decoded(data, str(part.get_content_charset("utf-8")))
    return text.replace("\r\n", "\n")[:_MAX_TEXT]


def returned_headers(parts: Iterable[Message]) -> Mapping[str, str]:
    """The headers of the e-mail that a report is about, names in lower case."""
    for part in parts:
        if part.get_content_type() in _RETURNED:
            return _fields(raw_text(part).partition("\n\n")[0])
    return {}


def text_of(parts: Iterable[Message]) -> str:
    """The readable text of a message."""
    texts = [raw_text(part) for part in parts if part.get_content_maintype() == "text"]
    return "\n".join(texts)[:_MAX_TEXT]


def ids_of(envelope_ids: Iterable[str], message_ids: Iterable[str], text: str = "") -> list[str]:
    """The possible ids of the e-mail, the most reliable first.

    Args:
        envelope_ids: values of Original-Envelope-Id, in xtext.
        message_ids: values of Message-ID.
        text: text in which the e-mail is quoted.
    """
    quoted = _IN_TEXT.findall(text)
    found = [from_xtext(each.strip()) for each in envelope_ids]
    for value in (*message_ids, *quoted):
        found += _MESSAGE_ID.findall(value)[:1]
    return [each for each in dict.fromkeys(found) if each][:_MAX_IDS]


def addresses_of(*values: str) -> list[str]:
    """The spellings of an address in fields such as Original-Recipient, without repetitions.

    Args:
        values: ``rfc822; ann@example.org``, with or without the type, the most reliable first.
    """
    found: list[str] = []
    for value in values:
        kind, semicolon, text = value.rpartition(";")
        text = (text if semicolon else value).strip()
        spellings = [from_xtext(text), text]
        if kind.strip().lower().startswith("utf-8"):
            spellings.insert(0, _UTF8_XTEXT.sub(lambda each: _character(each[1]), text))
        for each in spellings:
            found += _valid(each)
    return list(dict.fromkeys(found))


def mailboxes_of(value: str) -> list[str]:
    """The addresses in a header such as To."""
    found: list[str] = []
    with suppress(Exception):  # the standard library fails in many ways on odd input
        for _, address in getaddresses([value[:20_000]]):
            found += _valid(address)
    return list(dict.fromkeys(found))


def from_xtext(text: str) -> str:
    """Decode ``+2B`` to ``+`` (RFC 3461, section 4)."""
    return _XTEXT.sub(lambda each: chr(int(each[1], 16)), text)


def _valid(text: str) -> list[str]:
    try:
        return [parse_mailbox(text.strip().strip("<>")).address]
    except InvalidJob:
        return []


def _character(digits: str) -> str:
    number = int(digits, 16)
    return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else ""


def _fields(block: str) -> dict[str, str]:
    """Parse fields, which may be folded. The first of several fields with a name counts."""
    found: dict[str, str] = {}
    name = ""
    for line in block.split("\n"):
        if line[:1] in (" ", "\t"):
            if name:
                found[name] = f"{found[name]} {line.strip()}"[:10_000]
            continue
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if not colon or name in found:
            name = ""
        else:
            found[name] = value.strip()[:10_000]
    return found


def _written(message: Message) -> str:
    lines = [f"{name}: {value}" for name, value in message.items()]
    inner = message.get_payload()
    body = inner if isinstance(inner, str) else ""
    return "\n".join(lines) + (f"\n\n{body}" if body else "")


def _transfer_decoded(text: str, encoding: str) -> str:
    encoding = encoding.strip().lower()
    data = text.strip().encode("utf-8", "replace")
    with suppress(ValueError, binascii.Error):
        if encoding == "base64":
            return base64.b64decode(data).decode("utf-8", "replace")
        if encoding == "quoted-printable":
            return quopri.decodestring(data).decode("utf-8", "replace")
    return text


def _decoded(data: bytes, charset: str) -> str:
    data = data[: 4 * _MAX_TEXT]
    if charset.lower() in _SLOW_CHARSETS:
        charset = "utf-8"
    try:
        return data.decode(charset, "replace")
    except (LookupError, ValueError):
        return data.decode("utf-8", "replace")
