"""Reads a finished message back, and compares it with what it was made of.

This is the second line of defence: :mod:`.headers` should never write a message that reads
differently. Each header is read by both policies of Python's ``email`` package, because they
differ, like mail programs. Header lines, parts and bodies are the same in both, and found once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from email import message_from_string
from email.errors import HeaderParseError, NonASCIILocalPartDefect
from email.header import decode_header, make_header
from email.headerregistry import HeaderRegistry
from email.message import Message
from email.policy import SMTP, compat32
from email.utils import getaddresses
from typing import Any

from ...core.errors import InvalidJob
from .headers import MAX_LINE, Header
from .mime import Part


class _Headers(HeaderRegistry):
    """Python's registry of headers, which makes a new class for each header that it parses.

    A class refers to itself, so all of them stay in memory until the garbage collector runs: some
    20 kB for an e-mail. Here each kind of header has one class.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[type, type] = {}

    def __getitem__(self, name: str) -> type:
        kind: type = self.registry.get(name.lower(), self.default_class)
        made = self._made.get(kind)
        if made is None:
            made = self._made[kind] = super().__getitem__(name)
        return made


_POLICY = SMTP.clone(header_factory=_Headers())


def check(data: bytes, headers: Sequence[Header], root: Part) -> None:
    """Check that a message reads back as it was written, and may be sent by SMTP.

    Args:
        data: the whole message.
        headers: its headers in their order, those of ``root`` included.
        root: its outermost part.

    Raises:
        InvalidJob: a line or a character is not allowed, or a policy finds another header,
            address, part, file name or body. The message does not quote a value.
    """
    _check_lines(data, headers)
    message: Message = message_from_string(data.decode(), policy=compat32)
    found, expected = [*message.walk()], [*root.walk()]
    if len(found) != len(expected):
        raise _differs("message without additional or missing parts")
    for number, (part, original) in enumerate(zip(found, expected, strict=True)):
        try:
            parsed = _check_headers(part, headers if number == 0 else original.headers)
            is_same = _is_same(part, original, parsed)
        except (LookupError, ValueError, HeaderParseError):
            raise _differs("message that can be parsed") from None
        if not is_same:
            raise _differs("message whose parts read back as they were given")


def _check_lines(data: bytes, headers: Sequence[Header]) -> None:
    lines = data.split(b"\r\n")
    if not len(lines) - 1 == data.count(b"\r") == data.count(b"\n") or lines[-1]:
        raise _differs("message whose lines end with CRLF")
    if max(map(len, lines)) > MAX_LINE:
        raise InvalidJob(
            f"expected no line of over {MAX_LINE} bytes in the e-mail: shorten its names, "
            "addresses and URL"
        )
    head, _, body = data.partition(b"\r\n\r\n")
    if b"\0" in data or not body.isascii() or not (head.isascii() or _needs_utf8(headers)):
        raise _differs("message of 7-bit characters without NUL")


def _needs_utf8(headers: Sequence[Header]) -> bool:
    meanings = (header.meaning for header in headers if isinstance(header.meaning, tuple))
    return any(mailbox.needs_smtputf8 for found in meanings for mailbox in found)


def _check_headers(message: Message, headers: Sequence[Header]) -> Mapping[str, Any]:
    """Compare the headers of a part; returns them as the newer policy parsed them."""
    if message.keys() != [header.name for header in headers]:
        raise _differs("message without additional or missing headers")
    parsed = {}
    for header, (name, raw) in zip(headers, message.raw_items(), strict=True):
        # As BytesParser(policy=SMTP) does it; getting it from a message would parse it each time.
        found = parsed[name] = _POLICY.header_fetch_parse(name, raw)
        if _unfold(raw) != _unfold(header.value) or not (
            _means_the_same(header, _unfold(raw), found) and _is_intact(found)
        ):
            raise _differs(f"'{header.name}' that reads back as it was given")
    return parsed


def _means_the_same(header: Header, raw: str, found: Any) -> bool:
    """Whether both policies read a header as it was meant."""
    if header.meaning is None:
        return True  # the same value, whose parts _is_same compares
    if isinstance(header.meaning, str):
        return header.meaning == _decoded(raw) == str(found)
    return _pairs(raw) == [(box.name, box.address) for box in header.meaning] and [
        # The newer policy keeps the white space between the encoded words of a name (Python 3.11
        # to 3.13), which is not part of the name. The older one compares the spaces.
        ("".join(each.display_name.split()), each.username, each.domain)
        for each in found.addresses
    ] == [("".join(box.name.split()), box.local.strip('"'), box.domain) for box in header.meaning]


def _is_same(part: Message, original: Part, parsed: Mapping[str, Any]) -> bool:
    """Whether both policies read the type, file name and content of a part as they were given."""
    disposition = parsed.get("Content-Disposition")
    types = {part.get_content_type(), parsed["Content-Type"].content_type}
    names = {
        part.get_filename(),
        None if disposition is None else disposition.params.get("filename"),
    }
    return (
        types == {original.media_type}
        and names == {original.filename}
        and part.is_multipart() == bool(original.children)
        and (part.is_multipart() or part.get_payload(decode=True) == original.content)
        and not part.defects
    )


def _decoded(text: str) -> str:
    return str(make_header(decode_header(text)))


def _pairs(text: str) -> list[tuple[str, str]]:
    """Names and addresses, as the older policy reads them."""
    pairs = getaddresses([text])
    return [(_decoded(name), address) for name, address in pairs if address]


def _is_intact(header: Any) -> bool:
    """Whether the newer policy found no defect, except characters that SMTPUTF8 allows."""
    defects = getattr(header, "defects", ())
    return all(isinstance(defect, NonASCIILocalPartDefect) for defect in defects)


def _unfold(value: str) -> str:
    return value.replace("\r\n", "")


def _differs(expected: str) -> InvalidJob:
    return InvalidJob(
        f"expected a {expected}, got another after writing it; the e-mail was not sent: "
        "simplify its names, addresses, subject and file names"
    )
