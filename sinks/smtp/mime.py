"""The MIME parts of a message: texts, attachments, and the parts that contain them.

All bodies are 7-bit, because servers without 8BITMIME exist: text as quoted-printable or base64,
whichever is shorter, attachments as base64.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import unquote
from urllib.parse import quote

from ...core.errors import InvalidJob
from .encoded_words import header_text
from .headers import Header

_MAX_LINE = 76
_NEWLINE = re.compile(r"\r\n|\r|\n")
_NAME = r"[a-z0-9][a-z0-9!#$&^_.+-]{0,100}"  # RFC 6838, section 4.2
_MEDIA_TYPE = re.compile(rf"{_NAME}/{_NAME}")
#: Bytes of a file name in UTF-8: the limit of file systems. Percent-encoded it fits on a line, so
#: that it needs no RFC 2231 continuations, which some mail programs do not read.
_MAX_FILENAME = 255
_SIMPLE_FILENAME = re.compile(r"[A-Za-z0-9 !#$&+,;=@^_{}~()\[\].-]+")
#: Direction overrides and isolates show ``exe.fdp`` as ``pdf.exe`` or the reverse.
_DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a message.

    Attributes:
        media_type: such as ``text/plain``.
        headers: headers of the part, ``Content-Type`` first.
        body: encoded body; empty if the part has children.
        content: the bytes that a reader must decode from the body.
        filename: the file name that a reader must find; None for none.
        boundary: boundary between the children.
    """

    media_type: str
    headers: Sequence[Header]
    body: bytes = field(default=b"", repr=False)
    content: bytes = field(default=b"", repr=False)
    filename: str | None = field(default=None, repr=False)
    boundary: str = ""
    children: Sequence[Part] = ()

    def walk(self) -> Iterator[Part]:
        """The part and all parts in it, in the order in which they are written."""
        yield self
        for child in self.children:
            yield from child.walk()

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the body, after the empty line that ends the headers."""
        yield self.body
        for child in self.children:
            yield f"--{self.boundary}\r\n".encode("ascii")
            yield "".join(header.lines for header in child.headers).encode("ascii")
            yield b"\r\n"
            yield from child.pieces()
            yield b"\r\n"
        if self.children:
            yield f"--{self.boundary}--\r\n".encode("ascii")


def text_part(subtype: str, text: str) -> Part:
    """A ``text/plain`` or ``text/html`` part.

    Raises:
        InvalidJob: the text contains half of a surrogate pair.
    """
    if not isinstance(text, str):
        raise InvalidJob(f"expected the {subtype} body to be a text, got {type(text).__name__}")
    try:
        content = _NEWLINE.sub("\r\n", text.rstrip("\r\n") + "\n").encode()
    except UnicodeEncodeError:
        raise InvalidJob(
            f"expected a {subtype} body of whole characters, got half of a surrogate pair"
        ) from None
    encoding, body = "quoted-printable", _quoted_printable(content)
    in_base64 = _base64(content)
    if len(in_base64) < len(body):
        encoding, body = "base64", in_base64
    headers = [
        Header("Content-Type", f'text/{subtype}; charset="utf-8"'),
        Header("Content-Transfer-Encoding", encoding),
    ]
    return Part(f"text/{subtype}", headers, body, content)


def attachment_part(filename: str, content: bytes, media_type: str) -> Part:
    """An attachment.

    A message or multipart type is sent as ``application/octet-stream``, because such parts must
    not be in base64 (RFC 2045, section 6.4). The file name still tells mail programs the type.

    Raises:
        InvalidJob: the file name or the media type is invalid.
    """
    filename = _check_filename(filename)
    media_type = media_type.lower()
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise InvalidJob(
            "expected the media type of an attachment as 'type/subtype' without parameters"
        )
    if media_type.startswith(("message/", "multipart/")):
        media_type = "application/octet-stream"
    charset = '; charset="utf-8"' if media_type.startswith("text/") and _is_utf8(content) else ""
    headers = [
        Header("Content-Type", f"{media_type}{charset};\r\n {_parameter('name', filename)}"),
        Header("Content-Transfer-Encoding", "base64"),
        Header("Content-Disposition", f"attachment;\r\n {_parameter('filename', filename)}"),
    ]
    return Part(media_type, headers, _base64(content), content, filename)


def multipart(subtype: str, children: Sequence[Part], boundary: str) -> Part:
    """A part that contains others.

    Args:
        boundary: contains ``=_``, which neither quoted-printable nor base64 can contain.
    """
    header = Header("Content-Type", f'multipart/{subtype};\r\n boundary="{boundary}"')
    return Part(f"multipart/{subtype}", [header], boundary=boundary, children=children)


def _check_filename(filename: str) -> str:
    """The file name without encoded words and spaces at its ends.

    Raises:
        InvalidJob: it is empty, too long, or has characters that are not allowed.
    """
    filename = header_text(filename, "a file name", max_characters=_MAX_FILENAME)
    if not filename or len(filename.encode()) > _MAX_FILENAME:
        raise InvalidJob(f"expected a file name of 1 to {_MAX_FILENAME} bytes: rename the file")
    if "/" in filename or "\\" in filename or _DIRECTION.search(filename):
        raise InvalidJob(
            "expected a file name without '/', '\\' and characters that change the writing "
            "direction: rename the file"
        )
    if unquote(filename) != filename:  # some readers unquote a file name twice
        raise InvalidJob("expected a file name without quotes around it: rename the file")
    return filename


def _parameter(name: str, filename: str) -> str:
    """A parameter with a file name; by RFC 2231 if it is not plain ASCII."""
    if _SIMPLE_FILENAME.fullmatch(filename):
        return f'{name}="{filename}"'
    return f"{name}*=UTF-8''{quote(filename, safe='')}"


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _base64(content: bytes) -> bytes:
    return base64.encodebytes(content).replace(b"\n", b"\r\n")


def _quoted_printable(content: bytes) -> bytes:
    """Encode text that ends with CRLF. Lines never begin with ``From``, which mailboxes change."""
    encoded = binascii.b2a_qp(content, istext=True)
    return b"\r\n".join(map(_escape_from, encoded.split(b"\r\n")))


def _escape_from(line: bytes) -> bytes:
    if not line.startswith(b"From "):
        return line
    rest = line.removeprefix(b"From ")
    return b"=46rom " + (rest if len(line) + 2 <= _MAX_LINE else b"=\r\n" + _escape_from(rest))
