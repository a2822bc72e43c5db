"""Whom to erase: a submission, a form or an e-mail address, and which values are about them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from html import unescape
from typing import Any, Literal
from urllib.parse import unquote

from ...core.errors import InvalidJob
from ...core.hosts import InvalidHost, ascii_host
from ...core.printable import shown_id
from ...sinks.smtp.address import normal
from ...state.digests import digest

Kind = Literal["submission", "form", "email"]

#: The local part of an address at the end of a text, and the host at its beginning.
_LOCAL = re.compile(r"[^\s<>\"(),:;@\[\]\\]+\Z")
_HOST = re.compile(r"[\w.-]{1,255}")
_MAX_LOCAL = 256
#: Characters before an address in a URL or in quotes, which a local part may contain too.
_SEPARATORS = "=/?&'`{|"
#: An escape sequence of JSON: a code point, or a letter for white space or a control character.
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|[bfnrt])")
#: Between the name of a field and its value in a text: quotes, colons, escaped quotes.
_BETWEEN = r"[\s\"'\\:=>\[]{1,12}"


@dataclass(frozen=True)
class Subject:
    """What to erase.

    Attributes:
        kind: what ``value`` is.
        value: an id, or an address in its normal form (lower case, domain in ASCII).
    """

    kind: Kind
    value: str = field(repr=False)

    @classmethod
    def of_email(cls, address: str) -> Subject:
        """Make the subject of an address.

        Raises:
            InvalidJob: it is no address. The message does not quote it.
        """
        return cls("email", normal(address))

    @property
    def words(self) -> str:
        """The subject for logs and for the audit log: an address as its digest."""
        return f"{self.kind} {shown_id(self.value)}" if self.kind != "email" else self.digest

    @property
    def digest(self) -> str:
        """Digest that stands for the address where the address must not be stored."""
        return f"email {digest('formrelay erase', self.value)}"

    @property
    def shown(self) -> str:
        """The subject for the terminal of the person who typed it."""
        return f"{self.kind} {shown_id(self.value)}"

    def is_in(self, value: Any) -> bool:
        """Whether a JSON value is about the subject, at any depth."""
        return any(self._is_one(name, each) for name, each in _walk(value))

    def is_in_bytes(self, data: bytes) -> bool:
        """Whether bytes that are no JSON are about the subject."""
        return self._is_in_text(data.decode(errors="replace"))

    def _is_one(self, name: str, value: Any) -> bool:
        if not isinstance(value, str):
            # An id may be a number in the host's database.
            return type(value) is int and self._is_id(name, str(value))
        return self._is_id(name, value) or self._is_in_text(value)

    def _is_id(self, name: str, value: str) -> bool:
        return value == self.value and self.kind != "email" and _plain(name) in self._names

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return (f"{self.kind}id", f"{self.kind}.id")

    def _is_in_text(self, text: str) -> bool:
        if self.kind == "email":
            return any(self._is_address(local, host) for local, host in _addresses(text))
        return self.value in text and self._in_text.search(text) is not None

    def _is_address(self, local: str, host: str) -> bool:
        own_local, _, own_host = self.value.rpartition("@")
        local = unicodedata.normalize("NFC", local.lower())
        if not local.endswith(own_local) or not _is_host(host, own_host):
            return False
        before = local[: -len(own_local)]
        if before.endswith("'") and before[-2:-1].isalnum():
            return False  # no quote: o'brien@example.com
        # `to=ann@example.com` in a URL: these characters are allowed in an address, and rare there.
        return not before or before[-1] in _SEPARATORS

    @cached_property
    def _in_text(self) -> re.Pattern[str]:
        """Pattern for an id behind the name of its field, such as JSON or a URL in a text."""
        name = rf"{self.kind}[_-]?id|{self.kind}\W{{1,12}}id"
        return re.compile(rf"(?:{name}){_BETWEEN}{re.escape(self.value)}(?![\w-])", re.I)


def _addresses(text: str) -> Iterator[tuple[str, str]]:
    """Yield the local part and the host of each address in a text, a URL, HTML or JSON."""
    for spelling in _spellings(text):
        at = spelling.find("@")
        while at >= 0:
            local = _LOCAL.search(spelling[max(0, at - _MAX_LOCAL) : at])
            host = _HOST.match(spelling, at + 1)
            if local is not None and host is not None:
                yield local[0], host[0]
            at = spelling.find("@", at + 1)


def _spellings(text: str) -> Iterator[str]:
    if "@" in text:
        yield text
    if "%40" in text or ("%" in text and "@" in text):  # mailto:ann%2Bnews@example.com
        yield unquote(text)
    if "&#" in text or "&commat;" in text:
        yield unescape(text)
    if "\\" in text:
        yield _ESCAPE.sub(_unescaped, text)


def _unescaped(escape: re.Match[str]) -> str:
    code = escape[1]
    return chr(int(code, 16)) if code else " "


def _is_host(host: str, own: str) -> bool:
    """Whether a host is ``own``, which is in its normal form; a dot behind it ends a sentence."""
    host = host.rstrip(".-")
    if host.isascii():
        return host.lower() == own
    try:
        return ascii_host(host) == own
    except InvalidHost:
        return False


def _walk(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each text and number of a JSON value with the name of its field; names too.

    The ``id`` of an object has the name of the object before it: ``submission.id``.
    """
    stack = [(name, value)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, dict):
            for key, each in value.items():
                yield "", key
                is_id = isinstance(key, str) and key.lower() == "id"
                stack.append((f"{name}.id" if is_id else str(key), each))
        elif isinstance(value, list | tuple):
            stack += ((name, each) for each in value)
        else:
            yield name, value


def _plain(name: str) -> str:
    """A field's name in one spelling: ``submission_id`` and ``submissionId`` are the same."""
    return name.replace("_", "").replace("-", "").lower()


def check_id(kind: Kind, text: str) -> Subject:
    """Make the subject of an id.

    Raises:
        InvalidJob: the id is empty, or begins or ends with a space.
    """
    if not text or text != text.strip():
        raise InvalidJob(f"expected the id of a {kind}, got {'spaces' if text else 'nothing'}")
    return Subject(kind, text)
